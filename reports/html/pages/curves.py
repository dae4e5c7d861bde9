"""Recovery over budget: what every attack had won after so many forward-equivalents, from the
traces of all images.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.results.records import Board, BoardCell
from bench.results.row_table import for_drawing, mean_trace
from reports import numbers
from reports.html import charts
from reports.html.fields import Field, estimate_field
from reports.html.sections import Drawing, Section, SectionPage

HALF = 0.5


def curves_page(board: Board) -> SectionPage | None:
    """The page of a board; None where no attack has a trace."""
    groups: dict[str, list[BoardCell]] = {}
    for cell in board.cells:
        if cell.status == "ok" and cell.recovery.value is not None:
            groups.setdefault(cell.defended, []).append(cell)
    sections = [
        section
        for place, (name, cells) in enumerate(groups.items())
        if (section := _section(name, cells, place)) is not None
    ]
    if not sections:
        return None
    return SectionPage(
        path="curves.html",
        title="Recovery over budget",
        lead=(
            "Each line is the mean over images of the best image an attack had evaluated so far, "
            "from its traces. These are the images as the attack evaluated them, before the "
            "judge saved and counted them again, so that a line may end above the recovery on "
            "the board."
        ),
        sections=sections,
        teaser="what each attack had won after so many forward-equivalents",
    )


def _section(name: str, cells: Sequence[BoardCell], place: int) -> Section | None:
    lines: list[charts.CurvePoint] = []
    rows: list[list[Field]] = []
    for cell in cells:
        trace = mean_trace(cell.table())
        reserve = (cell.reference or 0) - (cell.clean_macs or 0)
        if not trace or reserve <= 0:
            continue
        points = [
            (evaluations, (macs - (cell.clean_macs or 0)) / reserve) for evaluations, macs in trace
        ]
        lines += [charts.CurvePoint(cell.attack, spent, won) for spent, won in for_drawing(points)]
        half = next((spent for spent, won in points if won >= HALF), None)
        most = points[-1][1]
        near = next(spent for spent, won in points if won >= 0.9 * most)
        rows.append(
            [
                Field(cell.attack),
                estimate_field(cell.recovery),
                Field(numbers.percent(most), sort=most),
                Field(numbers.DASH if half is None else str(half), sort=half),
                Field(str(near), sort=near),
            ]
        )
    if not rows:
        return None
    rows.sort(key=lambda row: -float(row[1].sort or 0))
    drawing = Drawing(
        f"target-{place}",
        f"Recovery over budget on {name}",
        "Forward-equivalents on a logarithmic axis.",
        charts.curves(lines),
    )
    columns = (
        ("Attack", False),
        ("Recovery, as saved", True),
        ("At the end", True),
        ("Budget to 50 %", True),
        ("Budget to 9/10 of its end", True),
    )
    return Section(name, columns=columns, rows=rows, drawings=[drawing])
