"""Two runs side by side as a page: what changed in every cell, and the images that changed most."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from bench.contracts.report import SavedImages
from bench.regression.compare import Change, Comparison
from bench.terminal import counted
from reports import numbers
from reports.differences import LEGEND, attacked, clean_images, counts, target_name
from reports.html.fields import Field
from reports.html.render import assets
from reports.html.section_files import section_files
from reports.html.sections import Picture, Section, SectionPage
from reports.html.site import File
from reports.publication import strip

_CHANGED = (
    ("MACs", True),
    ("Points of the ceiling", True),
    ("p", True),
    ("Accuracy, points", True),
    ("p", True),
)


def comparison_files(
    comparison: Comparison,
    names: tuple[str, str],
    pictures: SavedImages,
    *,
    shown: int = 6,
    version: str = "",
) -> Iterator[File]:
    """Every file of the page.

    Args:
        names: of the two runs.
        pictures: gives the saved images.
        shown: images a cell, those that changed most.
        version: of gatebench.
    """
    yield from assets()
    sections = [*_tables(comparison), *_largest(comparison, names, pictures, shown)]
    sheet = SectionPage("index.html", f"{names[1]} against {names[0]}", LEGEND, sections, "")
    yield from section_files(sheet, folder="", root="", home="Comparison", version=version)


def _tables(comparison: Comparison) -> Iterator[Section]:
    yield Section(
        "Attacked images",
        "Each cell that both runs have.",
        (("Cell", False), ("Images", True), ("Dearer", True), ("Cheaper", True), *_CHANGED),
        [
            [Field(text) for text in (change.label, *counts(change), *attacked(change))]
            for change in comparison.changes
        ],
        points=comparison.notes,
    )
    firsts = [
        (name, next(changes)) for name, changes in groupby(comparison.changes, key=target_name)
    ]
    yield Section(
        "Clean images",
        "What all attacks on a target share.",
        (("Target", False), ("Images", True), *_CHANGED),
        [
            [Field(text) for text in (name, str(len(change.ids)), *clean_images(change))]
            for name, change in firsts
        ],
    )


def _largest(
    comparison: Comparison, names: tuple[str, str], pictures: SavedImages, shown: int
) -> Iterator[Section]:
    for change in comparison.changes:
        places = change.largest(shown)
        if not places:
            continue
        ids = [change.ids[i] for i in places]
        before, now = pictures(change, ids)
        there = [name for name in ids if name in before and name in now]
        found: list[Picture] = []
        for data, said in (
            ([now[name][0] for name in there], "clean"),
            ([before[name][1] for name in there], f"adversarial, {names[0]}"),
            ([now[name][1] for name in there], f"adversarial, {names[1]}"),
        ):
            found += strip(data, said)
        yield Section(
            change.label,
            (
                f"{change.dearer} of {counted(len(change.ids), 'image')} are dearer, "
                f"{change.cheaper} "
                "cheaper. The largest changes, from left to right as in the table from top to "
                "bottom:"
            ),
            (
                ("Image", False),
                (f"Clean, {names[1]}", True),
                (names[0], True),
                (names[1], True),
                ("Points of the ceiling", True),
            ),
            [[Field(text) for text in _row(change, i)] for i in places],
            pictures=found,
        )


def _row(change: Change, i: int) -> list[str]:
    points = numbers.signed(100 * (int(change.now[i]) - int(change.before[i])) / change.reference)
    return [
        change.ids[i],
        *(
            numbers.macs(float(column[i]))
            for column in (change.clean_now, change.before, change.now)
        ),
        points,
    ]
