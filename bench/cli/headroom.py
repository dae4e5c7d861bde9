"""`gatebench headroom`: what ten times the budget would add to the strongest numbers of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import FittedColumn, FittedTable, console, fixed, remark, say

if TYPE_CHECKING:
    from bench.results.headroom import HeadroomEntry


@click.command()
@click.argument("run")
@click.option(
    "--images",
    default=16,
    show_default=True,
    type=click.IntRange(2),
    help="Of each board, the first ones.",
)
@click.option(
    "--times",
    default=10,
    show_default=True,
    type=click.IntRange(2),
    help="The reference's budget, in the board's.",
)
@data_root_option()
@device_option("Where to evaluate")
def headroom(run: str, images: int, times: int, data_root: str | None, device: str) -> None:
    """Run the strongest attack on each target of RUN again, with a multiple of the budget.

    Prints what that adds, on some of the images, to the strongest image that any attack of the
    board found: how far the board is from converged. Writes headroom.json into the run's folder.
    """
    from bench.analysis.headroom import measure
    from bench.store.folder import RunFolder, find_run
    from bench.store.provenance import deterministic, resolve_devices

    folder = find_run(run)
    deterministic(threads=1)
    chosen = str(resolve_devices(device)[0])
    found = measure(
        RunFolder(folder),
        images=images,
        times=times,
        device=chosen,
        data_root=data_root,
        tell=remark,
    )
    out = console()
    out.print(headroom_table(found.entries, out.width).table())
    say(str(folder / "headroom.json"))


def headroom_table(entries: Sequence[HeadroomEntry], width: int) -> FittedTable:
    """One line a target and defense.

    Args:
        entries: what was measured.
        width: of the terminal, in columns.
    """
    columns = (
        FittedColumn("target", name=True),
        FittedColumn("reference attack", name=True),
        FittedColumn("recovery"),
        FittedColumn("adds"),
        FittedColumn("95 % interval", 1),
        FittedColumn("images", 2),
    )
    return FittedTable(columns, [_row(entry) for entry in entries], width)


def _row(entry: HeadroomEntry) -> list[str]:
    from bench.contracts.cell import defended_name

    name = defended_name(entry.target, entry.defense)
    attack = f"{entry.attack} at {entry.budget}"
    if entry.gain is None or entry.low is None or entry.high is None or entry.recovery is None:
        return [name, attack, "-", "-", "-", str(entry.images)]
    return [
        name,
        attack,
        f"{fixed(100 * entry.recovery)}%",
        fixed(100 * entry.gain, 2, plus=True),
        f"[{fixed(100 * entry.low, 2)}, {fixed(100 * entry.high, 2)}]",
        str(entry.images),
    ]
