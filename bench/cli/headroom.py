"""`gatebench headroom`: what ten times the budget would add to the strongest numbers of a run."""

from __future__ import annotations

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import one_line, say


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
    from bench.contracts.cell import defended_name
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
        tell=lambda line: say(one_line(line)),
    )
    say(f"{'recovery':>9} {'adds':>7} {'95 % interval':>16}  target, reference attack")
    for entry in found.entries:
        name = one_line(defended_name(entry.target, entry.defense))
        if None in (entry.gain, entry.low, entry.high, entry.recovery):
            say(f"{'-':>9} {'-':>7} {'':>16}  {name}")
            continue
        spread = f"[{100 * (entry.low or 0):.2f}, {100 * (entry.high or 0):.2f}]"
        say(
            f"{100 * (entry.recovery or 0):>8.1f}% {100 * (entry.gain or 0):>+7.2f} {spread:>16}  "
            f"{name}, {one_line(entry.attack)} at {entry.budget}"
        )
    say(str(folder / "headroom.json"))
