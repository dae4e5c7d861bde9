"""What a cell's page shows: which images, the mean trace, the pictures and their limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic import block_units, full_board, image_rows

from bench.results.row_table import RowTable, for_drawing, mean_trace
from reports.html.pages.cell import (
    Gallery,
    Limits,
    cell_view,
    class_name,
    key_numbers,
    spread,
)

UNITS = block_units()
ROWS = image_rows(UNITS, 20, strength=0.5, shift=5)
TABLE = RowTable.of_rows(ROWS)
CELL = replace(
    next(cell for cell in full_board(n=5).cells if cell.attack == "ilfo"), rows=lambda: ROWS
)


def test_the_showcase_spans_the_ranks_of_recovered_macs() -> None:
    recovered = [row.adversarial_macs - row.clean_macs for row in ROWS]
    chosen = [recovered[index] for index in spread(TABLE, 6)]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (min(recovered), max(recovered))
    assert len(set(spread(TABLE, 6))) == 6
    assert sorted(spread(TABLE, 50)) == list(range(20))
    assert len(spread(TABLE, 1)) == 1
    assert spread(RowTable.of_rows([]), 6) == spread(TABLE, 0) == []


def test_the_trace_is_the_mean_of_step_functions() -> None:
    first = replace(ROWS[0], clean_macs=10, evaluations=8, trace=((3, 10, 0.0), (6, 20, 1.0)))
    second = replace(ROWS[1], clean_macs=30, evaluations=7, trace=((4, 40, 0.0),))
    assert mean_trace(RowTable.of_rows([first, second])) == [
        (0, 20.0),
        (3, 20.0),
        (4, 25.0),
        (6, 30.0),
        (8, 30.0),
    ]
    assert mean_trace(RowTable.of_rows([replace(first, trace=())])) == []


def test_long_traces_are_thinned_and_keep_their_ends() -> None:
    row = replace(
        ROWS[0], trace=tuple((at, 100 + at, 0.0) for at in range(1, 500)), evaluations=499
    )
    whole = mean_trace(RowTable.of_rows([row]))
    assert whole[117] == (117, 217.0), "what is read off a trace is not thinned"
    points = for_drawing(whole)
    assert len(points) <= 32
    assert (points[0][0], *points[-1]) == (0, 499, 599.0)


def test_all_pictures_of_a_cell_are_one_sheet() -> None:
    gallery = Gallery(CELL, TABLE, Limits(showcase=4, browse=7))
    assert (len(gallery.showcase), len(gallery.browse)) == (4, 7)
    assert gallery.factor == 127 // sorted(row.linf for row in ROWS)[10]
    assert gallery.sheet.content.startswith(b"\x89PNG")
    lines = {(item.clean, item.adversarial, item.difference) for item in gallery.showcase}
    assert lines <= set(gallery.sheet.places)
    assert len(lines) == 4


def test_browsing_stops_at_the_limit_of_bytes() -> None:
    most = sum(len(row.image) + len(row.adversarial) for row in ROWS[:5])
    limits = Limits(showcase=0, browse=20, picture_bytes=most)
    assert 0 < len(Gallery(CELL, TABLE, limits).browse) < 20


def test_bytes_that_are_no_picture_are_not_shown() -> None:
    rows = [replace(ROWS[0], image=b"<svg onload='x'>", adversarial=b"")]
    cell = replace(CELL, rows=lambda: rows)
    gallery = Gallery(cell, RowTable.of_rows(rows), Limits())
    assert gallery.sheet.content == b""
    assert gallery.showcase[0].clean is gallery.showcase[0].difference is None


def test_classes_by_name_where_there_is_one() -> None:
    assert class_name(CELL, 3) == "three"
    assert class_name(CELL, 10) == "10"
    assert class_name(replace(CELL, classes=()), 3) == "3"


def test_every_measured_quantity_is_on_the_page() -> None:
    words = {word: value for word, value, _ in key_numbers(CELL)}
    assert len(words) == 20
    assert words["Clean MACs"].endswith("MMAC")
    assert not any("FLOP" in f"{word} {value}" for word, value in words.items())


@pytest.mark.parametrize(
    "flag", ["left-threat", "near-threshold", "mixed-environment", "somebody-s-own"]
)
def test_flags_are_put_in_words(flag: str) -> None:
    view = cell_view(replace(CELL, flags=(flag,)), TABLE, Gallery(CELL, TABLE, Limits()))
    ((name, words),) = view["flags"]
    assert name == flag
    assert words.endswith(".")
