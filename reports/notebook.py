"""The board as a piece of HTML for notebooks, and pictures side by side."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench.codec import SAVED_FORMATS, as_rgb, read_picture
from bench.contracts.report import BoardReport
from bench.errors import DataError
from bench.files.atomic import write_atomic
from bench.files.writing import make_folder
from bench.results.records import Board, BoardCell
from bench.terminal import counted
from reports import numbers
from reports.html.pictures import amplification, amplified_difference
from reports.vocabulary import flag_words

PICTURES = 3
"""Images that are shown of the strongest attack."""
_HEADS = ("attack", "recovery", "MACs", "saving left", "accuracy", "PSNR", "flags")
_GAP = 4
"""Pixels between two pictures."""


class Notebook(BoardReport):
    """The board as a piece of HTML without scripts or styles: a table a target, and pictures."""

    def render(self, board: Board, out: Path) -> None:
        """Write board.html into a folder."""
        make_folder(Path(out))
        write_atomic(Path(out) / "board.html", self.fragment([board]).encode("utf-8"))

    def fragment(self, boards: Sequence[Board]) -> str:
        """Boards as they stand in a notebook; everything that others wrote is escaped."""
        return "".join(part for board in boards for part in _board(board))

    def side_by_side(self, clean: bytes, adversarial: bytes, width: int) -> Image.Image:
        """The clean image, the adversarial one, and their amplified difference.

        Args:
            clean: PNG bytes.
            adversarial: PNG bytes of the same size.
            width: pixels that each is at least wide; small pictures are magnified whole times.
        """
        first = as_rgb(read_picture(clean, SAVED_FORMATS, None))
        second = as_rgb(read_picture(adversarial, SAVED_FORMATS, first.size))
        before, after = np.asarray(first), np.asarray(second)
        largest = int(np.abs(after.astype(np.int32) - before.astype(np.int32)).max())
        changed = amplified_difference(before, after, amplification(largest))
        times = max(1, -(-width // before.shape[1]))
        height, wide = before.shape[0] * times, before.shape[1] * times
        sheet = Image.new("RGB", (3 * wide + 2 * _GAP, height), "white")
        for place, pixels in enumerate((before, after, changed)):
            shown = Image.fromarray(pixels).resize((wide, height), Image.Resampling.NEAREST)
            sheet.paste(shown, (place * (wide + _GAP), 0))
        return sheet


def _board(board: Board) -> Iterator[str]:
    remarks = [board.dataset_note] if board.dataset_note else []
    if board.preliminary:
        remarks.insert(0, "preliminary: fewer than 100 images")
    remarks += board.unreadable
    said = f" ({'; '.join(remarks)})" if remarks else ""
    yield f"<p>{html.escape(f'{board.dataset}, {board.terms}{said}')}</p>"
    for who in dict.fromkeys(cell.who for cell in board.cells):
        yield from _target([cell for cell in board.cells if cell.who == who])


def _target(cells: Sequence[BoardCell]) -> Iterator[str]:
    measured = [cell for cell in cells if cell.status == "ok"]
    yield f"<p><b>{html.escape(cells[0].defended)}</b>"
    if measured:
        one = measured[0]
        yield html.escape(
            f": clean {numbers.macs(one.clean_macs)} of {numbers.macs(one.reference)}, saves "
            f"{numbers.percent(one.clean_saving.value)}, accuracy "
            f"{numbers.percent(one.clean_accuracy.value)}, {counted(one.n, 'image')}"
        )
    yield "</p>"
    if measured:
        head = "".join(f"<th>{name}</th>" for name in _HEADS)
        rows = "".join(_row(cell) for cell in measured)
        yield f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        shown = [cell for cell in measured if not cell.control] or measured
        yield from _pictures(max(shown, key=lambda cell: cell.adversarial_macs or 0.0))
    for cell in cells:
        if cell.status != "ok":
            yield f"<p>{html.escape(f'{cell.attack}: {cell.status}, {cell.reason}')}</p>"


def _row(cell: BoardCell) -> str:
    values = (
        f"{cell.attack} (control)" if cell.control else cell.attack,
        numbers.share(cell.recovery),
        numbers.macs(cell.adversarial_macs),
        numbers.percent(cell.surviving_saving.value),
        numbers.percent(cell.adversarial_accuracy.value),
        numbers.decibel(cell.overall_psnr),
    )
    flags = ", ".join(
        f'<span title="{html.escape(flag_words(flag))}">{html.escape(flag)}</span>'
        for flag in cell.flags
    )
    texts = "".join(f"<td>{html.escape(value)}</td>" for value in values)
    return f"<tr>{texts}<td>{flags}</td></tr>"


def _pictures(cell: BoardCell) -> Iterator[str]:
    """The first images of a cell: clean, adversarial, amplified difference."""
    for row in cell.some_rows(range(min(PICTURES, cell.n))):
        buffer = io.BytesIO()
        try:
            Notebook().side_by_side(row.image, row.adversarial, 96).save(buffer, format="PNG")
        except DataError as error:
            said = f"{cell.attack}: the pictures of {row.id} cannot be shown: {error.message}"
            yield f"<p>{html.escape(said)}</p>"
            continue
        code = base64.b64encode(buffer.getvalue()).decode()
        about = html.escape(f"{row.id}: clean, {cell.attack}, and the amplified difference")
        yield f'<img alt="{about}" title="{about}" src="data:image/png;base64,{code}">'
