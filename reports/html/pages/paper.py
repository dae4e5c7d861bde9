"""Published beside measured: the rows of a paper's table, each next to the cell of ours that
answers it. Never one column.

Published values come from the data files in `reports.published`, with their source; a row there
names our target and attack by label.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from bench.errors import UnknownName
from bench.results.records import Board, BoardCell
from reports import numbers
from reports.html.fields import Entry, Field, Link, estimate_field, psnr_field
from reports.html.links import cell_page
from reports.html.pictures import normalized_error
from reports.html.sections import Section, SectionPage


@lru_cache(maxsize=1)
def published() -> Mapping[str, Mapping[str, Any]]:
    """Every published table by name, with the source and the deviations of its file beside it."""
    found: dict[str, Mapping[str, Any]] = {}
    for file in sorted(files("reports.published").iterdir(), key=lambda one: one.name):
        if file.name.endswith(".toml"):
            document = tomllib.loads(file.read_text(encoding="utf-8"))
            found |= {
                table["name"]: {
                    **table,
                    "source": document["source"],
                    "known": document["deviation"],
                }
                for table in document["table"]
            }
    return found


def paper_page(board: Board) -> SectionPage | None:
    """The page of a board whose plan names a published table; None for others.

    Raises:
        UnknownName: there is no table of that name.
    """
    name = board.plan.get("pages", {}).get("paper")
    if not name:
        return None
    if name not in published():
        raise UnknownName("paper", name, published())
    table = published()[name]
    rows = [_row(board, row) for row in table["row"]]
    source = table["source"]
    return SectionPage(
        path="paper.html",
        title=table["title"],
        lead=(
            f"Published in: {source['citation']}. Each published number stands beside the cell "
            "of ours that answers its row; they were measured on other networks and other "
            "images, and share no column."
        ),
        sections=[
            Section("Published beside measured", _conventions(source), _COLUMNS, rows),
            Section(
                "What the contrast map alone does",
                "The released map starts from a stretched image, not from the image. This is that "
                "map with no perturbation at all, and "
                "nothing "
                "else: the part of a row above that needs no attack.",
                _COLUMNS[3:],
                [
                    _ours(board, cell, first=True)
                    for cell in board.cells
                    if cell.control and cell.inputs["attack"]["name"] == "contrast"
                ],
            ),
            Section(
                "Where ours deviates", points=tuple(_deviations(table["deviations"], table, board))
            ),
        ],
        teaser=f"{name}: published beside measured",
    )


_COLUMNS = (
    ("Published row", False),
    ("Published recovery", True),
    ("Published PSNR", True),
    ("Ours", False),
    ("n", True),
    ("Recovery (MACs)", True),
    ("Recovery (blocks)", True),
    ("Recovery, float", True),
    ("PSNR", True),
    ("PSNR as published", True),
    ("Remarks", False),
)


def _conventions(source: Mapping[str, str]) -> str:
    return (
        f"Published recovery: {source['recovery']}. Published PSNR: {source['psnr']}. Ours: "
        "PSNR of the saved image in pixels; and, for comparison, in the published "
        "convention: peak 255 over the squared error in mean/std-normalised space, of the "
        "same saved images. A dash: not stated in the paper, or not finished here."
    )


def _row(board: Board, row: Mapping[str, Any]) -> list[Entry]:
    ours = row["ours"]
    cell = next(
        (
            cell
            for cell in board.cells
            if cell.target in ours["target"] and cell.attack == ours["attack"]
        ),
        None,
    )
    published = [
        Field(f"{row['attack']} on {row['target']}", below=row["dataset"]),
        Field(f"{row['recovery']:g} %" if "recovery" in row else numbers.DASH),
        Field(f"{row['psnr']:.2f} dB" if "psnr" in row else numbers.DASH),
    ]
    remarks = " ".join(_deviations(row.get("notes", ()), published_of(board), board))
    return [*published, *_ours(board, cell, remarks=remarks)]


def published_of(board: Board) -> Mapping[str, Any]:
    """The published table that a board's plan names."""
    return published()[board.plan["pages"]["paper"]]


def _ours(
    board: Board, cell: BoardCell | None, *, first: bool = False, remarks: str = ""
) -> list[Entry]:
    if cell is None:
        return [Field("not in this plan"), *(Field(numbers.DASH),) * 6, Field(remarks)]
    link = Link(
        f"{cell.attack} on {cell.target}", cell_page(cell), below="control" if cell.control else ""
    )
    if cell.status != "ok":
        return [
            link,
            *(Field(numbers.DASH),) * 6,
            Field(f"{cell.status}: {cell.reason}. {remarks}".strip()),
        ]
    error = normalized_error([(row.image, row.adversarial) for row in cell.rows()])
    theirs = numbers.DASH if error is None else numbers.decibel(error)
    return [
        link,
        Field(str(cell.n)),
        estimate_field(cell.recovery),
        Field(numbers.percent(cell.block_recovery)),
        estimate_field(cell.float_recovery),
        psnr_field(cell),
        Field(theirs),
        Field(remarks),
    ]


def _deviations(names: Sequence[str], table: Mapping[str, Any], board: Board) -> Iterator[str]:
    """The named deviations that apply to this board's data."""
    for name in names:
        found = table["known"][name]
        if board.dataset.startswith(found.get("data", "")):
            yield found["text"]
