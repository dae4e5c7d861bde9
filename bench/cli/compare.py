"""`gatebench compare`: two runs side by side, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.options import emit
from bench.terminal import say

if TYPE_CHECKING:
    from bench.contracts.report import ComparisonReport
    from bench.regression.compare import Change


@click.command()
@click.argument("before", metavar="RUN")
@click.argument("now", metavar="RUN")
@click.option(
    "--json", "json_file", metavar="FILE", help='Write everything as JSON; "-" is the terminal.'
)
@click.option(
    "--markdown", metavar="FILE", help='Write a table for a pull request; "-" is the terminal.'
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for a page with the images that changed most.",
)
@click.option(
    "--images",
    default=6,
    show_default=True,
    type=click.IntRange(1),
    help="Images of each cell on that page.",
)
@click.option("--use", default="changes", show_default=True, help="The comparison report to make.")
def compare(
    before: str,
    now: str,
    json_file: str | None,
    markdown: str | None,
    html: Path | None,
    images: int,
    use: str,
) -> None:
    """Compare two runs image by image: which got dearer or cheaper under attack, and by how much.

    Cells are matched by the labels of target, defense and attack; give a target the same `label` in
    both plans to compare other weights. What has no counterpart, and what was measured otherwise,
    is named. Nothing is judged: that is `gatebench check`.
    """
    from bench import __version__
    from bench.plugins import registry
    from bench.regression.baseline import Baseline
    from bench.regression.compare import compare as paired
    from bench.regression.compare import saved_images
    from bench.store.folder import find_run

    folders = find_run(before), find_run(now)
    names = (folders[0].name, folders[1].name)
    if names[0] == names[1]:
        names = (f"{names[0]} (first)", f"{names[1]} (second)")
    found = paired(*(Baseline.of_run(folder, whole=False) for folder in folders))
    report: ComparisonReport = registry.load("comparison", use)()
    emit(json_file, report.json(found))
    emit(markdown, report.markdown(found, names))
    if html:

        def pictures(change: Change, ids: Sequence[str]) -> list[dict[str, tuple[bytes, bytes]]]:
            return [
                saved_images(folder, board, change, ids)
                for folder, board in zip(folders, change.boards, strict=True)
            ]

        report.render(found, names, pictures, html, shown=images, version=__version__)
    if "-" not in (json_file, markdown):
        report.terminal(found, names)
    if html:
        say(f"page: {html / 'index.html'}", err="-" in (json_file, markdown))
