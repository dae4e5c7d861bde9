"""`gatebench latency`: wall-clock time of execute, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import FittedColumn, FittedTable, console, counted, remark, say

if TYPE_CHECKING:
    from bench.store.latency import Timed


@click.command()
@click.argument("run")
@click.option(
    "--images",
    default=16,
    show_default=True,
    type=click.IntRange(1),
    help="Images of the run, at most; each executed on its own.",
)
@click.option(
    "--repeats",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Rounds; in each, every target takes its turn.",
)
@data_root_option("; for defenses that learn from it")
@device_option("Where to execute")
def latency(run: str, images: int, repeats: int, data_root: str | None, device: str) -> None:
    """Measure how long the targets of RUN take for one image, with and without their defenses.

    MACs do not see everything: a JPEG round trip multiplies nothing. All targets take turns on the
    same stored images, in one process with one thread; medians and ratios go to latency.json in the
    run's folder and, from there, into baselines. Compare them on one machine only, and trust ratios
    more than times.
    """
    from bench.analysis.latency import measure
    from bench.store.folder import RunFolder, find_run
    from bench.store.provenance import deterministic, resolve_devices

    folder = find_run(run)
    deterministic(threads=1)
    chosen = str(resolve_devices(device)[0])
    found = measure(
        RunFolder(folder),
        images=images,
        repeats=repeats,
        data_root=data_root,
        device=chosen,
        tell=remark,
    )
    machine = found.machine
    say(
        f"{machine.device}, {counted(machine.threads, 'thread')}; median of "
        f"{counted(found.entries[0].images, 'image')}, {counted(repeats, 'round')}"
    )
    out = console()
    out.print(latency_table(found.entries, out.width).table())
    say(str(folder / "latency.json"))


def latency_table(entries: Sequence[Timed], width: int) -> FittedTable:
    """One line a target and defense.

    Args:
        entries: what was measured.
        width: of the terminal, in columns.
    """
    columns = (
        FittedColumn("target", name=True),
        FittedColumn("clean"),
        FittedColumn("attacked"),
        FittedColumn("overhead"),
    )
    rows = [
        [
            one.defended,
            f"{one.median_ms:.2f} ms",
            f"{one.adversarial_ms:.2f} ms",
            "-" if one.ratio is None else f"x{one.ratio:.2f}",
        ]
        for one in entries
    ]
    return FittedTable(columns, rows, width)
