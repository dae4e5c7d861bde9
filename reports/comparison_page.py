"""Two runs side by side as a page: the table, and for each cell the images that changed most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from bench import __version__
from bench.comparing import Change, Comparison
from reports import numbers
from reports.board_page import Field
from reports.changes import CHANGES, change_rows
from reports.leaderboard import assets, sheet_files
from reports.publication import strip
from reports.sections import Picture, Section, Sheet
from reports.site import File

Pictures = Callable[[Change, Sequence[str]], Sequence[Mapping[str, tuple[bytes, bytes]]]]
"""(cell, ids) -> for the first and the second run, id -> (clean, adversarial) as PNG bytes."""

_NUMBERS = 1
"""Columns from here on hold numbers."""


def comparison_files(comparison: Comparison, names: tuple[str, str], pictures: Pictures, *, shown: int = 6) -> Iterator[File]:
    """Every file of the page.

    Args:
        names: of the two runs. pictures: gives the saved images. shown: images a cell, those that changed most.
    """
    yield from assets()
    title = f"{names[0]} and {names[1]}"
    sheet = Sheet("index.html", title, _lead(names), [_table(comparison), *_largest(comparison, names, pictures, shown)], "")
    yield from sheet_files(sheet, folder="", root="", home="Comparison", version=__version__)


def _lead(names: tuple[str, str]) -> str:
    return (
        f"Every image of the cells that both runs have, paired: what it executes under attack in {names[1]}, less what it executed in "
        f"{names[0]}. Positive is dearer. Intervals are paired bootstraps at 95 %, p is two-sided, corrected (Holm) over the table."
    )


def _table(comparison: Comparison) -> Section:
    columns = [(head, place >= _NUMBERS) for place, head in enumerate(CHANGES)]
    rows = [[Field(text) for text in row] for row in change_rows(comparison)]
    return Section(
        "All cells", "Changes are in points: shares of the undefended ceiling, and of images.", columns, rows, points=comparison.notes
    )


def _largest(comparison: Comparison, names: tuple[str, str], pictures: Pictures, shown: int) -> Iterator[Section]:
    for change in comparison.changes:
        places = change.largest(shown)
        if not places:
            continue
        ids = [change.ids[i] for i in places]
        before, now = pictures(change, ids)
        found: list[Picture] = []
        for data, said in (
            ([now[name][0] for name in ids if name in now], "clean"),
            ([before[name][1] for name in ids if name in before], f"in {names[0]}"),
            ([now[name][1] for name in ids if name in now], f"in {names[1]}"),
        ):
            found += strip(data, said)
        rows = [
            [
                Field(change.ids[i]),
                Field(numbers.macs(float(change.clean_now[i]))),
                Field(numbers.macs(float(change.before[i]))),
                Field(numbers.macs(float(change.now[i]))),
                Field(f"{100 * (int(change.now[i]) - int(change.before[i])) / change.reference:+.1f}"),
            ]
            for i in places
        ]
        yield Section(
            change.label,
            f"{change.dearer} of {len(change.ids)} images are dearer, {change.cheaper} cheaper; the largest changes:",
            (("Image", False), ("Clean", True), (names[0], True), (names[1], True), ("Points of the ceiling", True)),
            rows,
            pictures=found,
        )
