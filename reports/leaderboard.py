"""The leaderboard as pages that work from disk: an index a board, a page a cell, and nothing from the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contracts.report import BoardReport
from bench.results.records import Board, BoardCell
from bench.results.rows import ImageRow
from reports import numbers
from reports.answers import answers, sentence, summary
from reports.html import charts
from reports.html.drawings import Chart, chart
from reports.html.encode import split_links
from reports.html.gates import Opening, openings, overview, owners
from reports.html.links import pages
from reports.html.pages.audits import audits_page
from reports.html.pages.board import board_view, front_points
from reports.html.pages.cell import Gallery, Limits, cell_view, mean_trace
from reports.html.pages.curves import curves_page
from reports.html.pages.defenses import defenses_page
from reports.html.pages.fronts import fronts_page
from reports.html.pages.paper import paper_page
from reports.html.pages.rounding import rounding_page
from reports.html.pages.transfer import transfer_page
from reports.html.render import assets, page, vega_bundle
from reports.html.section_files import section_files
from reports.html.sections import SectionPage
from reports.html.site import File, write_site
from reports.sheets import csv_bytes, parquet_bytes
from reports.vocabulary import READING, STATUSES

_MOST_LINES = 250
"""Units drawn one by one, and images drawn at once, at most; the tables hold all."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard(BoardReport):
    """A leaderboard in HTML: standings, every cell with its images and gates, charts, and the commands to repeat it.

    Pure: the same boards give the same bytes. Written without torch.

    Attributes:
        showcase: images shown at the top of a cell's page.
        browse: images to browse on a cell's page, at most.
        picture_bytes: browsing stops where the pictures of one cell are larger than this together.
        cells: whether every cell gets its page.
    """

    showcase: int = 6
    browse: int = 60
    picture_bytes: int = 4_000_000
    cells: bool = True

    def render(self, board: Board, out: Path) -> None:
        """Write the report of one board into the folder `out`, in place of an older report.

        Raises:
            RunFolderError: `out` is there and is not a report.
            DiskError: the disk refused a write.
        """
        self.render_all([board], out)

    def render_all(self, boards: Sequence[Board], out: Path) -> None:
        """Write one report of several boards: an index over them, and a folder each; the same as `render` for a single board."""
        write_site(self.files(boards, version=boards[0].version if boards else ""), Path(out))

    def files(self, boards: Sequence[Board], *, version: str) -> Iterator[File]:
        """Every file of the report, one after the other: (path inside the report, content)."""
        yield from assets()
        yield "assets/vega.js", vega_bundle()
        over_all = [sheet for sheet in self.over_all(boards) if sheet is not None]
        for sheet in over_all:
            yield from section_files(
                sheet,
                folder="",
                root="",
                home=boards[0].name if len(boards) == 1 else "All boards",
                version=version,
            )
        if len(boards) == 1:
            yield from self._board(boards[0], folder="", more=over_all)
            return
        folders = _folders(boards)
        entries = [
            {
                "folder": folder,
                "title": board.name,
                "summary": summary(board),
                "preliminary": board.preliminary,
                "cells": len(board.cells),
                "answers": answers(board),
            }
            for board, folder in zip(boards, folders, strict=True)
        ]
        questions = [answer.question for answer in answers(boards[0])] if boards else []
        yield (
            "index.html",
            page(
                "boards.html",
                root="",
                charted=False,
                version=version,
                entries=entries,
                questions=questions,
                more=over_all,
            ),
        )
        for board, folder in zip(boards, folders, strict=True):
            yield from self._board(board, folder=f"{folder}/")

    def _board(
        self, whole: Board, *, folder: str, more: Sequence[SectionPage] = ()
    ) -> Iterator[File]:
        board = self.shown_of(whole)
        sheets = [
            *(sheet for sheet in self.sheets(whole) if sheet is not None),
            *self.further(board),
        ]
        for sheet in sheets:
            home = "All boards" if folder else board.name
            place = {"folder": folder, "root": "../" if folder else "", "home": home}
            yield from section_files(
                sheet, **place, version=board.version, board=board, linked=self.cells
            )
        front, still = chart(
            "front",
            "front.svg",
            "Recovery against PSNR for every cell",
            charts.front(front_points(board.cells)),
        )
        if still:
            yield f"{folder}front.svg", still
        common = {
            "board": board,
            "up": bool(folder),
            "version": board.version,
            "credits": [split_links(line) for line in board.credits],
        }
        yield (
            f"{folder}index.html",
            page(
                "board.html",
                **{**board_view(board, linked=self.cells), "answers": answers(whole), **common},
                root="../" if folder else "",
                charted=front is not None,
                front=front,
                reading=READING,
                known_statuses=STATUSES,
                more=[*more, *sheets],
            ),
        )
        yield f"{folder}board.csv", csv_bytes(board)
        yield f"{folder}board.parquet", parquet_bytes(board)
        if not self.cells:
            return
        places = pages(board)
        written: set[str] = set()
        for index, cell in enumerate(board.cells):
            around = {
                "before": _neighbour(board, places, index - 1),
                "after": _neighbour(board, places, index + 1),
                "root": "../../" if folder else "../",
            }
            for name, content in self._cell(board, cell, places[cell.key], {**common, **around}):
                if name not in written:
                    written.add(name)
                    yield _picture_place(folder, name), content

    def over_all(self, boards: Sequence[Board]) -> Sequence[SectionPage | None]:
        """The pages over all boards, None where they have nothing for one."""
        return fronts_page(boards), rounding_page(boards)

    def shown_of(self, board: Board) -> Board:
        """What the index and the tables show of a board; all of it."""
        return board

    def sheets(self, board: Board) -> Sequence[SectionPage | None]:
        """The further pages of a board, None where it has nothing for one."""
        return (
            defenses_page(board),
            paper_page(board),
            audits_page(board),
            curves_page(board),
            transfer_page(board),
        )

    def further(self, board: Board) -> Sequence[SectionPage]:
        """Pages of a board beside those that every report has; none here."""
        return ()

    def _cell(
        self, board: Board, cell: BoardCell, place: str, context: Mapping[str, Any]
    ) -> Iterator[File]:
        rows = list(cell.rows()) if cell.status == "ok" else []
        gallery = Gallery(cell, rows, Limits(self.showcase, self.browse, self.picture_bytes))
        for name, picture in gallery.files.items():
            yield f"pictures/{name}", picture
        groups = owners(cell.units)
        rates = openings(cell.units, groups, rows)
        stem = place.removeprefix("cells/").removesuffix(".html")
        drawn: dict[str, Chart | None] = {}
        for name, alt, made in _documents(board, cell, rows, rates):
            drawn[name], still = chart(name, f"{stem}-{name}.svg", alt, made)
            if still:
                yield f"cells/{stem}-{name}.svg", still
        by_recovery = sorted(rows, key=lambda row: (row.adversarial_macs - row.clean_macs, row.id))
        lone = sum(1 for group in groups if group.shape == ())
        yield (
            place,
            page(
                "cell.html",
                **context,
                **cell_view(cell, rows, gallery),
                **drawn,
                name=cell.defended,
                summary=summary(board),
                intervals=sentence(board.intervals),
                openings=[_rate(rate) for rate in rates],
                all_images=overview(by_recovery[:_MOST_LINES], groups)
                if lone <= _MOST_LINES and len(rows) <= _MOST_LINES
                else None,
                charted=any(drawn.values()),
            ),
        )


def _documents(
    board: Board, cell: BoardCell, rows: Sequence[ImageRow], rates: Sequence[Opening]
) -> Iterator[tuple[str, str, dict[str, Any] | None]]:
    """(name, text for those who cannot see it, document) of the charts of a cell's page."""
    same = tuple(
        other
        for other in board.cells
        if (other.target, other.defense) == (cell.target, cell.defense)
    )
    points = front_points(same, marked=cell.key)
    yield (
        "front",
        "Recovery against PSNR of the attacks on this target",
        charts.front(points, by_target=False) if rows else None,
    )
    bounded = cell.floor is not None and cell.ceiling is not None and bool(rows)
    floor, ceiling = cell.floor or 0, cell.ceiling or 0
    clean_macs, adversarial_macs = (
        [row.clean_macs for row in rows],
        [row.adversarial_macs for row in rows],
    )
    yield (
        "distribution",
        "Executed MACs of the images, clean and adversarial",
        charts.distribution(clean_macs, adversarial_macs, floor, ceiling) if bounded else None,
    )
    yield (
        "finished",
        "Share of images finished by cost, clean and adversarial",
        charts.finished(clean_macs, adversarial_macs, floor, ceiling) if bounded else None,
    )
    mean = sum(clean_macs) / len(clean_macs) if clean_macs else 0.0
    yield (
        "trace",
        "Mean MACs of the best image so far",
        charts.trace(mean_trace(rows), floor, ceiling, mean) if bounded else None,
    )
    shown = rates if len(rates) <= _MOST_LINES else ()
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


def _neighbour(board: Board, places: Mapping[str, str], index: int) -> dict[str, str] | None:
    if not 0 <= index < len(board.cells):
        return None
    cell = board.cells[index]
    name = f"{cell.attack} on {cell.defended}"
    return {"page": places[cell.key].removeprefix("cells/"), "name": name}


def _picture_place(folder: str, name: str) -> str:
    """Pictures of all boards lie in one folder at the root, named by content; the rest in the board's own."""
    return name if name.startswith("pictures/") else folder + name


def _folders(boards: Sequence[Board]) -> list[str]:
    """A short folder name for each board, made of its number and its name."""
    return [
        f"{index:02d}-{re.sub(r'[^a-z0-9]+', '-', board.name.lower()).strip('-')[:40] or 'board'}"
        for index, board in enumerate(boards, 1)
    ]
