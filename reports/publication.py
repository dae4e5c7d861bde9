"""A report small enough to be committed: boards without cell pages, eight pictures a cell, and all
rows without pictures.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from bench.results.history import FILE, History, read_history
from bench.results.records import Board, BoardCell
from bench.results.rows import pack
from reports.history import history_page
from reports.html.cache import RenderCache
from reports.html.links import pages, row_name
from reports.html.pictures import encode, file_name, pixels
from reports.html.sections import Picture, Section, SectionPage
from reports.html.site import File
from reports.leaderboard import Leaderboard

PICTURES = "pictures.html"
"""The page of pictures, from a board's index."""
GAP = 2
"""White pixels between pictures of a strip."""


@dataclass(frozen=True, kw_only=True)
class Publication(Leaderboard):
    """The pages of every board with eight saved images a cell side by side, and rows.parquet: every
    image's row without its pictures.

    Attributes:
        shown: images a cell, the first of the data.
        title: of the page over all boards.
        members: whether the cells that an ensemble is made of stand beside it. Without them a board
            of many defenses stays small: its page of defenses still draws on all of them, its
            tables, pictures and rows leave them out, and curves and fronts, which compare attacks
            of one budget, are not drawn.
        earlier: folder of the publication that this one replaces, whose versions are kept.
        version_name: what this version is called; its number by default.
    """

    shown: int = 8
    members: bool = True
    cells: bool = False
    title: str = ""
    earlier: Path | None = None
    version_name: str = ""

    def shown_of(self, board: Board) -> Board:
        """The board, without members where they are not asked for."""
        if self.members:
            return board
        inside = {
            member["key"] for cell in board.cells for member in cell.combination.get("members", ())
        }
        return replace(board, cells=tuple(cell for cell in board.cells if cell.key not in inside))

    def over_all(self, boards: Sequence[Board]) -> Sequence[SectionPage | None]:
        """Fronts and rounding, with members alone; and what changed since the last version."""
        more = super().over_all(boards) if self.members else ()
        return [*more, history_page(self._history(boards))]

    def _history(self, boards: Sequence[Board]) -> History:
        shown = [self.shown_of(board) for board in boards]
        history = History() if self.earlier is None else read_history(self.earlier)
        return history.with_boards(shown, self.version_name)

    def sheets(self, board: Board) -> Sequence[SectionPage | None]:
        """The further pages; curves with members alone."""
        return [
            sheet
            for sheet in super().sheets(board)
            if sheet is not None and (self.members or sheet.path != "curves.html")
        ]

    def places(self, board: Board) -> Mapping[str, str]:
        """Rows lead to the pictures of their cells, where any are shown."""
        names = {key: row_name(page) for key, page in pages(board).items()}
        return {
            cell.key: f"{PICTURES}#{names[cell.key]}" if cell.status == "ok" and self.shown else ""
            for cell in board.cells
        }

    def further(self, board: Board) -> Sequence[SectionPage]:
        """The page of pictures."""
        sheet = pictures_page(board, self.shown)
        return () if sheet is None else (sheet,)

    def files(
        self, boards: Sequence[Board], *, version: str, cache: RenderCache | None = None
    ) -> Iterator[File]:
        """As the leaderboard's, the rows of all boards, and the digest of every file."""
        digests = []
        for name, content in self._content(boards, version, cache):
            digests.append(f"{sha256(content).hexdigest()}  {name}\n")
            yield name, content
        yield "SHA256SUMS", "".join(sorted(digests, key=lambda line: line[66:])).encode()

    def _content(
        self, boards: Sequence[Board], version: str, cache: RenderCache | None
    ) -> Iterator[File]:
        yield from super().files(boards, version=version, cache=cache)
        yield FILE, self._history(boards).document()
        yield "rows.parquet", rows_bytes([self.shown_of(board) for board in boards])

    @property
    def landing(self) -> bool:
        """A publication of one board has an index too, where it has a title."""
        return bool(self.title)

    def words(self) -> dict[str, Any]:
        """The title, and how the pages were made."""
        return {"title": self.title, "published": True}


def pictures_page(board: Board, shown: int) -> SectionPage | None:
    """Strips of saved images, a section a target: the clean images, then those of every attack;
    None where nothing has finished.
    """
    groups: dict[str, list[BoardCell]] = {}
    for cell in board.cells:
        if cell.status == "ok":
            groups.setdefault(cell.defended, []).append(cell)
    names = {key: row_name(page) for key, page in pages(board).items()}
    sections = [
        Section(name, pictures=list(_strips(cells, shown, names))) for name, cells in groups.items()
    ]
    if not sections or not shown:
        return None
    return SectionPage(
        path=PICTURES,
        title="Pictures",
        lead=(
            f"The first {shown} images as they were saved: clean, then under every attack on "
            "each target. The files hold the pixels themselves; only this page scales them up."
        ),
        sections=sections,
        teaser=f"{shown} saved images of every cell",
    )


def _strips(cells: Sequence[BoardCell], shown: int, names: Mapping[str, str]) -> Iterator[Picture]:
    """The strips of one target; each bears the anchors of the cells that it shows."""
    unchanged: list[BoardCell] = []
    for number, cell in enumerate(cells):
        rows = cell.some_rows(range(min(shown, cell.n)))
        if number == 0:
            yield from strip([row.image for row in rows], "clean")
        if any(row.squared for row in rows):
            yield from strip(
                [row.adversarial for row in rows],
                f"{cell.attack}{' (control)' if cell.control else ''}",
                [names[cell.key]],
            )
        else:
            unchanged.append(cell)
    if unchanged and cells:
        yield from strip(
            [row.image for row in cells[0].some_rows(range(min(shown, cells[0].n)))],
            f"unchanged: {', '.join(cell.attack for cell in unchanged)}",
            [names[cell.key] for cell in unchanged],
        )


def strip(pictures: Sequence[bytes], said: str, names: Sequence[str] = ()) -> Iterator[Picture]:
    """PNG pictures of one size side by side as one, with the anchors `names`; nothing where they
    cannot be read.
    """
    found = [one for data in pictures if (one := pixels(data)) is not None]
    if not found or len({one.shape for one in found}) > 1:
        return
    height, width, _ = found[0].shape
    strip = np.full((height, len(found) * (width + GAP) - GAP, 3), 255, dtype=np.uint8)
    for i, one in enumerate(found):
        strip[:, i * (width + GAP) : i * (width + GAP) + width] = one
    content, scale = encode(strip), max(1, 64 // width)
    yield Picture(
        file_name(content),
        content,
        f"saved images: {said}",
        said,
        scale * strip.shape[1],
        scale * height,
        tuple(names),
    )


def rows_bytes(boards: Sequence[Board]) -> bytes:
    """Every image of every finished cell as a parquet table: where it belongs, then its row without
    pictures; decisions as packed bits.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = []
    for board in boards:
        for cell in board.cells:
            if cell.status != "ok":
                continue
            head = {
                "board": board.name,
                "target": cell.target,
                "defense": cell.defense,
                "attack": cell.attack,
                "key": cell.key,
            }
            for row in cell.rows():
                values = {
                    name: value
                    for name, value in vars(row).items()
                    if name not in ("image", "adversarial", "trace")
                }
                for name in ("clean_decisions", "adversarial_decisions"):
                    values[name] = pack(np.array([values[name]]))[0]
                trace = [
                    {"evaluations": used, "macs": macs, "squared": near}
                    for used, macs, near in row.trace
                ]
                found.append({**head, **values, "trace": trace})
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pylist(found),
        out,
        compression="zstd",
        compression_level=19,
        write_statistics=False,
    )
    return out.getvalue()
