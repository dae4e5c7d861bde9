"""The leaderboard as pages that work from disk: an index a board, a page a cell, nothing from the
network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.contracts.report import BoardReport
from bench.results.records import Board
from reports.answers import answers, summary
from reports.html import charts
from reports.html.cache import RenderCache, cache_beside
from reports.html.cell_files import cell_files, cell_parts
from reports.html.drawings import chart, still_picture
from reports.html.encode import split_links
from reports.html.links import pages
from reports.html.pages.audits import audits_page
from reports.html.pages.board import board_view, front_points
from reports.html.pages.cell import Limits
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

MOST_PAGES = 120
"""Cells of a board whose pages the light report has; those of larger ones are in the full."""


@dataclass(frozen=True, kw_only=True)
class Leaderboard(BoardReport):
    """A leaderboard in HTML: standings, every cell with its images and gates, charts, and the
    commands to repeat it.

    Pure: the same boards give the same bytes. Written without torch. What was rendered before is
    taken from a cache beside the report.

    Attributes:
        full: every image that can be browsed, and a page for every cell of however large a board.
            The light report shows the images of the showcase alone.
        showcase: images shown at the top of a cell's page.
        browse: images to browse on a cell's page, at most; by default 60 in the full report and
            none in the light one.
        picture_bytes: browsing stops where the pictures of one cell are larger than this together.
        cells: whether cells have pages at all.
    """

    full: bool = False
    showcase: int = 6
    browse: int | None = None
    picture_bytes: int = 4_000_000
    cells: bool = True

    def render(self, board: Board, out: Path) -> None:
        """Write the report of one board into the folder `out`, in place of an older report.

        Args:
            board: what is shown.
            out: the folder.

        Raises:
            RunFolderError: `out` is there and is not a report.
            DiskError: the disk refused a write.
        """
        self.render_all([board], out)

    def render_all(self, boards: Sequence[Board], out: Path) -> None:
        """Write one report of several boards: an index over them, and a folder each.

        Args:
            boards: what is shown; a single one is the report itself.
            out: the folder.
        """
        cache = cache_beside(Path(out))
        version = boards[0].version if boards else ""
        write_site(self.files(boards, version=version, cache=cache), Path(out))
        cache.prune()

    def files(
        self, boards: Sequence[Board], *, version: str, cache: RenderCache | None = None
    ) -> Iterator[File]:
        """Every file of the report, one after the other: (path inside the report, content)."""
        cache = cache or RenderCache()
        yield from assets()
        yield "assets/vega.js", vega_bundle(cache)
        over_all = [one for one in self.over_all(boards) if one is not None]
        home = boards[0].name if len(boards) == 1 else "All boards"
        for one in over_all:
            yield from section_files(one, folder="", root="", home=home, version=version)
        if len(boards) == 1 and not self.landing:
            yield from self._board(boards[0], cache, folder="", more=over_all)
            return
        folders = _folders(boards)
        yield "index.html", self.index(boards, folders, over_all, version)
        for board, folder in zip(boards, folders, strict=True):
            yield from self._board(board, cache, folder=f"{folder}/")

    @property
    def landing(self) -> bool:
        """Whether even a single board gets an index over boards."""
        return False

    def index(
        self,
        boards: Sequence[Board],
        folders: Sequence[str],
        more: Sequence[SectionPage],
        version: str,
    ) -> bytes:
        """The page over all boards."""
        entries = [
            {
                "folder": folder,
                "title": board.name,
                "summary": summary(board),
                "preliminary": board.preliminary,
                "cells": len(board.cells),
                "answers": answers(board),
                "command": board.command,
            }
            for board, folder in zip(boards, folders, strict=True)
        ]
        questions = [answer.question for answer in answers(boards[0])] if boards else []
        return page(
            "boards.html",
            root="",
            charted=False,
            version=version,
            entries=entries,
            questions=questions,
            more=more,
            **self.words(),
        )

    def words(self) -> dict[str, Any]:
        """What the index over all boards says beside them."""
        return {"title": "", "published": False}

    def _pages(self, board: Board) -> bool:
        """Whether the cells of a board have pages."""
        return self.cells and (self.full or len(board.cells) <= MOST_PAGES)

    def places(self, board: Board) -> Mapping[str, str]:
        """Key -> where the row of a cell leads to, from the index; "" for nowhere."""
        if self._pages(board):
            return pages(board)
        return dict.fromkeys((cell.key for cell in board.cells), "")

    def _board(
        self, whole: Board, cache: RenderCache, *, folder: str, more: Sequence[SectionPage] = ()
    ) -> Iterator[File]:
        board = self.shown_of(whole)
        linked = self._pages(board)
        root = "../" if folder else ""
        further = [
            *(one for one in self.sheets(whole) if one is not None),
            *self.further(board),
        ]
        for one in further:
            yield from section_files(
                one,
                folder=folder,
                root=root,
                home="All boards" if folder else board.name,
                version=board.version,
                board=board,
                linked=linked,
            )
        front = chart(
            "front",
            "Recovery against PSNR for every cell",
            charts.front(front_points(board.cells)),
            "front.svg",
        )
        if front is not None:
            yield f"{folder}front.svg", still_picture(front, cache)
        context = {
            "up": bool(folder),
            "version": board.version,
            "credits": [split_links(line) for line in board.credits],
        }
        yield (
            f"{folder}index.html",
            page(
                "board.html",
                **{
                    **board_view(board, self.places(board)),
                    "answers": answers(whole),
                    **context,
                },
                board=board,
                root=root,
                charted=front is not None,
                front=front,
                reading=READING,
                known_statuses=STATUSES,
                more=[*more, *further],
                unlinked=self.cells and not linked,
            ),
        )
        yield f"{folder}board.csv", csv_bytes(board)
        yield f"{folder}board.parquet", parquet_bytes(board)
        if linked:
            yield from self._cells(board, cache, folder, context)

    def _cells(
        self, board: Board, cache: RenderCache, folder: str, context: Mapping[str, Any]
    ) -> Iterator[File]:
        """The pages of all cells."""
        browse = self.browse if self.browse is not None else 60 if self.full else 0
        limits = Limits(self.showcase, browse, self.picture_bytes)
        places = pages(board)
        written: set[str] = set()
        for number, cell in enumerate(board.cells):
            told = {
                **context,
                "before": _neighbour(board, places, number - 1),
                "after": _neighbour(board, places, number + 1),
                "root": "../../" if folder else "../",
            }
            where = places[cell.key]
            parts = cell_parts(board, cell, where, told, limits)
            store = cache if parts else RenderCache()
            made = store.files(parts, partial(cell_files, board, cell, where, told, limits))
            for name, content in made:
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


def _neighbour(board: Board, places: Mapping[str, str], index: int) -> dict[str, str] | None:
    if not 0 <= index < len(board.cells):
        return None
    cell = board.cells[index]
    name = f"{cell.attack} on {cell.defended}"
    return {"page": places[cell.key].removeprefix("cells/"), "name": name}


def _picture_place(folder: str, name: str) -> str:
    """Pictures of all boards lie in one folder at the root, named by content; the rest in the
    board's own.
    """
    return name if name.startswith("pictures/") else folder + name


def _folders(boards: Sequence[Board]) -> list[str]:
    """A short folder name for each board, made of its number and its name."""
    return [
        f"{index:02d}-{re.sub(r'[^a-z0-9]+', '-', board.name.lower()).strip('-')[:40] or 'board'}"
        for index, board in enumerate(boards, 1)
    ]
