"""`gatebench transfer`: the saved images of each target, scored on all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import FittedColumn, FittedTable, cell, console, fixed, remark, say

if TYPE_CHECKING:
    from bench.results.records import Transferred


@click.command()
@click.argument("run")
@click.option(
    "--attack",
    metavar="LABEL",
    help="Whose images to take; default: on each target those of its strongest attack.",
)
@device_option("Where to evaluate")
@data_root_option("; for defenses that learn from it")
@click.option("--no-report", is_flag=True, help="Leave the pages as they are.")
def transfer(
    run: str, attack: str | None, device: str, data_root: str | None, no_report: bool
) -> None:
    """Score the adversarial images of RUN on every other target of the same board.

    Reads the saved pictures of sealed cells and attacks nothing again. Writes transfer.parquet into
    the run's folder, one row an image and pair, and renders the pages again with the matrix.
    """
    from bench.analysis.transfer import transfer as score
    from bench.cli.report import write_report
    from bench.results.board import load_boards
    from bench.store.folder import RunFolder, find_run
    from bench.store.provenance import deterministic, resolve_devices

    folder = find_run(run)
    deterministic(threads=1)
    chosen = str(resolve_devices(device)[0])
    path = score(
        RunFolder(folder),
        attack=attack,
        device=chosen,
        data_root=data_root,
        tell=remark,
    )
    out = console()
    boards = load_boards(folder)
    for board in boards:
        if len(boards) > 1:
            out.print(cell(board.name, "bold"))
        out.print(transfer_table(board.transfers, out.width).table())
    say(str(path))
    if not no_report:
        say(f"page: {write_report([folder], folder / 'report')}")


def transfer_table(pairs: Sequence[Transferred], width: int) -> FittedTable:
    """One line a pair of targets; the recovery is that of the one that evaluates.

    Args:
        pairs: what was scored.
        width: of the terminal, in columns.
    """
    columns = (
        FittedColumn("images of", name=True),
        FittedColumn("attack", name=True),
        FittedColumn("on", name=True),
        FittedColumn("recovery"),
        FittedColumn("95 % interval", 1),
        FittedColumn("mean MACs", 2),
    )
    return FittedTable(columns, [_row(pair) for pair in pairs], width)


def _row(pair: Transferred) -> list[str]:
    found = pair.recovery
    names = [pair.source, pair.attack, pair.victim]
    macs = f"{pair.macs:,.0f}"
    if found.value is None or found.low is None or found.high is None:
        return [*names, "-", "-", macs]
    spread = f"[{fixed(100 * found.low)}, {fixed(100 * found.high)}]"
    return [*names, f"{fixed(100 * found.value)}%", spread, macs]
