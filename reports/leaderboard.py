"""The leaderboard as pages that work from disk: an index a board, a page a cell, and nothing from the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bench.results.records import Board, BoardCell
from bench.results.rows import ImageRow
from reports import charts, numbers
from reports.audits_page import audits_sheet
from reports.board_page import (
    answers,
    board_view,
    front_points,
    pages,
    sentence,
    summary,
    target_name,
)
from reports.cell_page import Gallery, Limits, cell_view, mean_trace
from reports.curves_page import curves_sheet
from reports.defences_page import defences_sheet
from reports.encode import clean, json_block, split_links
from reports.fronts_page import fronts_sheet
from reports.gates import Opening, openings, overview, owners
from reports.paper_page import paper_sheet
from reports.rounding_page import rounding_sheet
from reports.sections import Section, Sheet
from reports.sheets import csv_bytes, parquet_bytes
from reports.site import File, write_site
from reports.transfer_page import transfer_sheet
from reports.vocabulary import READING, STATUSES

POLICY = "default-src 'none'; img-src 'self' file: data:; style-src 'self' file:; script-src 'self' file:; base-uri 'none'; form-action 'none'"
"""Scripts and styles come from beside the page only. `file:` says the same as 'self' to browsers that give pages from disk no origin."""

_ASSETS = ("style.css", "early.js", "page.js", "draw.js")
_MOST_LINES = 250
"""Units drawn one by one, and images drawn at once, at most; the tables hold all."""


@dataclass(frozen=True)
class Chart:
    """A chart of a page: its document, and the still picture that stands in where scripts are off."""

    name: str
    still: str
    alt: str
    document: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """A leaderboard in HTML: standings, every cell with its images and gates, charts, and the commands to repeat it.

    Implements `bench.api.Report` without importing it, so that a report is written without torch. Pure: the same boards give the
    same bytes.

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
            yield from sheet_files(
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
            _page(
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

    def _board(self, whole: Board, *, folder: str, more: Sequence[Sheet] = ()) -> Iterator[File]:
        board = self.shown_of(whole)
        sheets = [
            *(sheet for sheet in self.sheets(whole) if sheet is not None),
            *self.further(board),
        ]
        for sheet in sheets:
            home = "All boards" if folder else board.name
            place = {"folder": folder, "root": "../" if folder else "", "home": home}
            yield from sheet_files(
                sheet, **place, version=board.version, board=board, linked=self.cells
            )
        front, still = _chart(
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
            _page(
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

    def over_all(self, boards: Sequence[Board]) -> Sequence[Sheet | None]:
        """The pages over all boards, None where they have nothing for one."""
        return fronts_sheet(boards), rounding_sheet(boards)

    def shown_of(self, board: Board) -> Board:
        """What the index and the tables show of a board; all of it."""
        return board

    def sheets(self, board: Board) -> Sequence[Sheet | None]:
        """The further pages of a board, None where it has nothing for one."""
        return (
            defences_sheet(board),
            paper_sheet(board),
            audits_sheet(board),
            curves_sheet(board),
            transfer_sheet(board),
        )

    def further(self, board: Board) -> Sequence[Sheet]:
        """Pages of a board beside those that every report has; none here."""
        return ()

    def _cell(
        self, board: Board, cell: BoardCell, page: str, context: Mapping[str, Any]
    ) -> Iterator[File]:
        rows = list(cell.rows()) if cell.status == "ok" else []
        gallery = Gallery(cell, rows, Limits(self.showcase, self.browse, self.picture_bytes))
        for name, picture in gallery.files.items():
            yield f"pictures/{name}", picture
        groups = owners(cell.units)
        rates = openings(cell.units, groups, rows)
        stem = page.removeprefix("cells/").removesuffix(".html")
        drawn: dict[str, Chart | None] = {}
        for name, alt, made in _documents(board, cell, rows, rates):
            drawn[name], still = _chart(name, f"{stem}-{name}.svg", alt, made)
            if still:
                yield f"cells/{stem}-{name}.svg", still
        by_recovery = sorted(rows, key=lambda row: (row.adversarial_macs - row.clean_macs, row.id))
        lone = sum(1 for group in groups if group.shape == ())
        yield (
            page,
            _page(
                "cell.html",
                **context,
                **cell_view(cell, rows, gallery),
                **drawn,
                name=target_name(cell.target, cell.defense),
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


def _chart(
    name: str, still: str, alt: str, document: dict[str, Any] | None
) -> tuple[Chart | None, bytes]:
    if document is None:
        return None, b""
    tidy = _clean_values(document)
    return Chart(name, still, alt, tidy), charts.still(tidy)


def _clean_values(value: Any) -> Any:
    """The document with its strings cleaned, before either picture is drawn from it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: _clean_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_values(entry) for entry in value]
    return value


def assets() -> Iterator[File]:
    """What every page needs beside it."""
    template_folder = files("reports").joinpath("templates")
    for asset in _ASSETS:
        yield f"assets/{asset}", template_folder.joinpath(asset).read_bytes()


def sheet_files(
    sheet: Sheet,
    *,
    folder: str,
    root: str,
    home: str,
    version: str,
    board: Board | None = None,
    linked: bool = True,
) -> Iterator[File]:
    """A page of sections, its pictures, and the still pictures of its charts beside it."""
    yield from (
        (f"pictures/{picture.name}", picture.content)
        for section in sheet.sections
        for picture in section.pictures
    )
    sections, charted = [], False
    stem = sheet.path.removesuffix(".html")
    for section in sheet.sections:
        drawn = []
        for drawing in section.drawings:
            chart, still = _chart(
                drawing.name,
                f"{stem}-{drawing.name}.svg",
                drawing.alt,
                None if drawing.document is None else dict(drawing.document),
            )
            if chart is not None:
                charted = True
                drawn.append((chart, drawing.caption))
                yield f"{folder}{stem}-{drawing.name}.svg", still
        sections.append(_section(section, drawn, linked=linked))
    yield (
        f"{folder}{sheet.path}",
        _page(
            "sections.html",
            root=root,
            home=home,
            home_of_board="index.html" if folder else "",
            board_name=board.name if board is not None else "",
            inner="",
            charted=charted,
            version=version,
            sheet=sheet,
            sections=sections,
            credits=[],
        ),
    )


def _section(
    section: Section, drawn: Sequence[tuple[Chart, str]], *, linked: bool
) -> dict[str, Any]:
    rows = [[_entry(entry, linked=linked) for entry in row] for row in section.rows]
    return {
        "heading": section.heading,
        "note": section.note,
        "points": list(section.points),
        "columns": list(section.columns),
        "rows": rows,
        "charts": list(drawn),
        "pictures": list(section.pictures),
        "shaded": section.shaded,
    }


def _entry(entry: Any, *, linked: bool) -> dict[str, Any]:
    """An entry of a table for the template; links are taken from the page's own folder. Shades go from 0 to 10."""
    sort = getattr(entry, "sort", None)
    shade = max(0, min(10, round(10 * sort))) if isinstance(sort, float | int) else None
    return {
        "text": entry.text,
        "below": entry.below,
        "page": getattr(entry, "page", "") if linked else "",
        "shade": shade,
    }


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
    name = f"{cell.attack} on {target_name(cell.target, cell.defense)}"
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


@lru_cache(maxsize=1)
def vega_bundle() -> bytes:
    """Vega, Vega-Lite, Vega-Embed and its expression interpreter in one script; it needs no eval and no network."""
    import vl_convert

    return vl_convert.javascript_bundle(snippet="window.vegaEmbed = vegaEmbed;").encode("utf-8")


def _finish(value: Any) -> Any:
    """Every value on its way into a page: strings cleaned, a forgotten None refused."""
    if value is None:
        raise TypeError("a template printed a value that is not there")
    if isinstance(value, str) and not isinstance(value, Markup):
        return clean(value)
    return value


@lru_cache(maxsize=1)
def environment() -> Environment:
    """The template engine: everything escaped, nothing undefined, no way to declare data safe but the JSON encoder."""
    engine = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finish,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    del engine.filters["safe"], engine.filters["tojson"]
    engine.globals["json_block"] = json_block
    engine.globals["policy"] = POLICY
    return engine


def _page(template: str, **context: Any) -> bytes:
    return environment().get_template(template).render(context).encode("utf-8")
