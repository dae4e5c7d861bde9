"""`gatebench baseline`: what a run measured, in one small file to be committed."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import emit
from bench.terminal import counted, say


@click.command()
@click.argument("run")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("baseline.json"),
    show_default=True,
    help="File to write.",
)
def baseline(run: str, out: Path) -> None:
    """Write what RUN measured, image by image, as a baseline for `gatebench check`.

    The file holds executed MACs and right answers of every image of every finished cell, what was
    run, and the environment; no pictures, no time, no paths. The same run gives the same bytes.
    Commit it, and write it again when a change is meant.
    """
    from bench.regression.baseline import Baseline
    from bench.store.folder import find_run

    found = Baseline.of_run(find_run(run))
    emit(str(out), found.bytes())
    cells = sum(len(part.cells) for part in found.boards)
    for part in found.boards:
        for label, why in part.left_out.items():
            say(f"not in it: {label}, {why}", err=True)
    images = sum(len(part.ids) for part in found.boards)
    say(
        f"{out}: {counted(cells, 'cell')}, {counted(images, 'image')}, "
        f"{out.stat().st_size / 1000:.0f} kB"
    )
