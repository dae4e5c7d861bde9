"""`gatebench transfer`: the saved images of each target, scored on all others."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import data_root_option, device_option
from bench.terminal import say


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
    from bench.store.folder import RunFolder, find_run
    from bench.store.provenance import deterministic, resolve_devices

    folder = find_run(run)
    deterministic(threads=1)
    chosen = str(resolve_devices(device)[0])
    path = score(
        RunFolder(Path(folder)), attack=attack, device=chosen, data_root=data_root, tell=say
    )
    say(str(path))
    if not no_report:
        say(f"page: {write_report([folder], folder / 'report')}")
