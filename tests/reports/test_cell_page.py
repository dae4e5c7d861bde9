"""What a cell's page shows: which images, the mean trace, the pictures and their limits."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic import block_units, full_board, image_rows

from reports.html.pages.cell import (
    Gallery,
    Limits,
    cell_view,
    class_name,
    key_numbers,
    mean_trace,
    spread,
)

UNITS = block_units()
ROWS = image_rows(UNITS, 20, strength=0.5, shift=5)
CELL = next(cell for cell in full_board(n=5).cells if cell.attack == "ilfo")


def test_the_showcase_spans_the_ranks_of_recovered_macs() -> None:
    recovered = [row.adversarial_macs - row.clean_macs for row in ROWS]
    chosen = [recovered[index] for index in spread(ROWS, 6)]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (min(recovered), max(recovered))
    assert len(set(spread(ROWS, 6))) == 6
    assert sorted(spread(ROWS, 50)) == list(range(20))
    assert len(spread(ROWS, 1)) == 1
    assert spread([], 6) == spread(ROWS, 0) == []


def test_the_trace_is_the_mean_of_step_functions() -> None:
    first = replace(ROWS[0], clean_macs=10, evaluations=8, trace=((3, 10, 0.0), (6, 20, 1.0)))
    second = replace(ROWS[1], clean_macs=30, evaluations=7, trace=((4, 40, 0.0),))
    assert [(point.evaluations, point.macs) for point in mean_trace([first, second])] == [
        (0, 20.0),
        (3, 20.0),
        (4, 25.0),
        (6, 30.0),
        (8, 30.0),
    ]
    assert mean_trace([replace(first, trace=())]) == []


def test_long_traces_are_thinned_and_keep_their_ends() -> None:
    row = replace(
        ROWS[0], trace=tuple((at, 100 + at, 0.0) for at in range(1, 500)), evaluations=499
    )
    points = mean_trace([row])
    assert len(points) <= 48
    assert (points[0].evaluations, points[-1].evaluations, points[-1].macs) == (0, 499, 599.0)


def test_pictures_come_as_files_named_by_content() -> None:
    gallery = Gallery(CELL, ROWS, Limits(showcase=4, browse=7))
    assert (len(gallery.showcase), len(gallery.browse)) == (4, 7)
    assert gallery.factor == 127 // sorted(row.linf for row in ROWS)[10]
    for item in gallery.showcase:
        assert {item.clean, item.adversarial, item.difference} <= set(gallery.files)
    assert all(content.startswith(b"\x89PNG") for content in gallery.files.values())


def test_browsing_stops_at_the_limit_of_bytes() -> None:
    most = sum(
        len(content) for content in Gallery(CELL, ROWS, Limits(showcase=2, browse=3)).files.values()
    )
    assert (
        0 < len(Gallery(CELL, ROWS, Limits(showcase=2, browse=20, picture_bytes=most)).browse) < 20
    )


def test_bytes_that_are_no_picture_are_not_shown() -> None:
    rows = [replace(ROWS[0], image=b"<svg onload='x'>", adversarial=b"")]
    gallery = Gallery(CELL, rows, Limits())
    assert gallery.files == {}
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
    view = cell_view(replace(CELL, flags=(flag,)), ROWS, Gallery(CELL, ROWS, Limits()))
    ((name, words),) = view["flags"]
    assert name == flag
    assert words.endswith(".")
