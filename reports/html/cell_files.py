"""The files of one cell's page: the page itself and one sheet with its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.results.records import Board, BoardCell
from bench.results.row_table import RowTable, for_drawing, mean_trace
from reports import numbers
from reports.answers import sentence, summary
from reports.html import charts
from reports.html.charts import Document, TracePoint
from reports.html.drawings import chart
from reports.html.gates import Opening, layout, openings, overview, owners
from reports.html.pages.board import front_points
from reports.html.pages.cell import Gallery, Limits, by_recovery, cell_view
from reports.html.render import page
from reports.html.site import File

MOST_LINES = 250
"""Units drawn one by one, and images drawn at once, at most; the tables hold all."""

_NO_ROWS = RowTable.of_rows([])


def cell_files(
    board: Board, cell: BoardCell, place: str, context: Mapping[str, Any], limits: Limits
) -> Iterator[File]:
    """The page of a cell at `place`, and its sheet of pictures.

    Args:
        board: that it belongs to.
        cell: which.
        place: of the page, from the board's folder.
        context: what the template is told beside the cell: links, credits, version.
        limits: of the pictures.
    """
    table = cell.table() if cell.status == "ok" else _NO_ROWS
    gallery = Gallery(cell, table, limits)
    if gallery.sheet.content:
        yield f"pictures/{gallery.sheet.name}", gallery.sheet.content
    groups = owners(cell.units)
    rates = openings(cell.units, groups, table)
    drawn = {name: chart(name, alt, made) for name, alt, made in _charts(board, cell, table, rates)}
    whole = layout(groups)
    few = len(table) <= MOST_LINES and len(whole["alone"]) <= MOST_LINES
    view = cell_view(cell, table, gallery, board.name.partition(":")[0])
    shown = [*gallery.showcase, *gallery.browse]
    yield (
        place,
        page(
            "cell.html",
            **context,
            **view,
            **drawn,
            board=board,
            name=cell.defended,
            summary=summary(board),
            intervals=sentence(board.intervals),
            openings=[_rate(rate) for rate in rates],
            gates=whole | {"whole": overview(table, by_recovery(table), groups) if few else None},
            mapped=any(item.gates for item in shown),
            charted=any(drawn.values()),
        ),
    )


def cell_parts(
    board: Board, cell: BoardCell, place: str, context: Mapping[str, Any], limits: Limits
) -> list[str]:
    """Everything that `cell_files` depends on, as text; [] where the cell's rows have no digest."""
    if not cell.digest:
        return []
    same = [repr(point) for point in front_points(_siblings(board, cell), marked=cell.key)]
    told = [
        board.name,
        board.dataset_note,
        summary(board),
        board.intervals,
        str(board.preliminary),
        repr(sorted(context.items(), key=lambda item: item[0])),
    ]
    return [cell.digest, repr(replace(cell, units=())), place, repr(limits), *told, *same]


def _siblings(board: Board, cell: BoardCell) -> tuple[BoardCell, ...]:
    """The cells on the same defended target."""
    return tuple(
        other
        for other in board.cells
        if (other.target, other.defense) == (cell.target, cell.defense)
    )


def _charts(
    board: Board, cell: BoardCell, table: RowTable, rates: Sequence[Opening]
) -> Iterator[tuple[str, str, Document | None]]:
    """(name, text for those who cannot see it, document) of the charts of a cell's page."""
    there = len(table) > 0
    points = front_points(_siblings(board, cell), marked=cell.key)
    yield (
        "front",
        "Recovery against PSNR of the attacks on this target",
        charts.front(points, by_target=False) if there else None,
    )
    bounded = cell.floor is not None and cell.ceiling is not None and there
    floor, ceiling = cell.floor or 0, cell.ceiling or 0
    clean, adversarial = (
        table[name].tolist() if there else [] for name in ("clean_macs", "adversarial_macs")
    )
    yield (
        "distribution",
        "Executed MACs of the images, clean and adversarial",
        charts.distribution(clean, adversarial, floor, ceiling) if bounded else None,
    )
    yield (
        "finished",
        "Share of images finished by cost, clean and adversarial",
        charts.finished(clean, adversarial, floor, ceiling) if bounded else None,
    )
    mean = sum(clean) / len(clean) if clean else 0.0
    trace = [TracePoint(*point) for point in for_drawing(mean_trace(table))] if there else []
    yield (
        "trace",
        "Mean MACs of the best image so far",
        charts.trace(trace, floor, ceiling, mean) if bounded else None,
    )
    shown = rates if len(rates) <= MOST_LINES else ()
    document = charts.opening_rates(
        [rate.name for rate in shown],
        [rate.clean for rate in shown],
        [rate.adversarial for rate in shown],
    )
    yield "rates", "Opening rates of the units, clean and adversarial", document


def _rate(rate: Opening) -> dict[str, str]:
    return {
        "name": rate.name,
        "kind": rate.kind,
        "count": str(rate.count),
        "cost": numbers.macs(rate.cost),
        "clean": numbers.percent(rate.clean),
        "adversarial": numbers.percent(rate.adversarial),
        "change": numbers.percent(rate.adversarial - rate.clean),
    }
