"""A board in a notebook."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import full_board, png

from bench.results.records import Board
from reports.notebook import PICTURES, Notebook


def with_first_picture(board: Board, data: bytes) -> Board:
    """The board with another first saved picture in each of its cells."""
    cells = []
    for cell in board.cells:
        if cell.status == "ok":
            first, *others = cell.rows()
            rows = (replace(first, adversarial=data), *others)
            cell = replace(cell, rows=lambda rows=rows: rows)
        cells.append(cell)
    return replace(board, cells=tuple(cells))


@pytest.mark.parametrize(
    "data",
    [b"<script>", png(np.zeros((9, 9, 3), dtype=np.uint8))],
    ids=["no-picture", "another-size"],
)
def test_a_picture_that_cannot_be_read_is_said_and_the_others_are_shown(data):
    board = full_board(n=4)
    whole = Notebook().fragment([board])
    text = Notebook().fragment([with_first_picture(board, data)])
    targets = whole.count("<img ") // PICTURES
    assert targets > 1
    assert text.count("<img ") == targets * (PICTURES - 1)
    assert text.count("the pictures of digits-m/test/00000 cannot be shown") == targets
    assert "<script>" not in text
