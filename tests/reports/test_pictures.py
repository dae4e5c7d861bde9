"""Amplified differences and state maps."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from synthetic import png

from reports.html.pictures import (
    CLOSED,
    OFF,
    ON,
    OPENED,
    STATE_COLOURS,
    amplification,
    amplified_difference,
    file_name,
    state_map,
)


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_difference_is_amplified_around_grey() -> None:
    clean = np.full((4, 4, 3), 100, dtype=np.uint8)
    other = clean.copy()
    other[0, 0] = (105, 95, 100)
    shown = pixels(amplified_difference(png(clean), png(other), 25))
    assert shown[0, 0].tolist() == [253, 3, 128]
    assert (shown[1:] == 128).all()


def test_the_factor_uses_the_whole_range_and_clips_nothing() -> None:
    for largest in range(256):
        factor = amplification(largest)
        assert factor >= 1
        assert factor == 1 or (factor * largest <= 127 < (factor + 1) * largest) or largest == 0


def test_grey_pictures_differ_too() -> None:
    clean = np.full((4, 4), 10, dtype=np.uint8)
    assert (pixels(amplified_difference(png(clean), png(clean + 2), 10)) == 148).all()


def test_what_is_no_picture_has_no_difference() -> None:
    good = png(np.zeros((4, 4, 3), dtype=np.uint8))
    assert amplified_difference(good, b"", 2) is None
    assert amplified_difference(good, good[:40], 2) is None
    assert amplified_difference(good, b"<svg onload='alert(1)'/>", 2) is None
    assert amplified_difference(good, png(np.zeros((5, 4, 3), dtype=np.uint8)), 2) is None


def test_states_are_told_apart_by_colour_and_lightness() -> None:
    drawn = pixels(state_map([[OFF, CLOSED], [OPENED, ON]]))
    assert [tuple(drawn[y, x]) for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))] == [
        STATE_COLOURS[s] for s in (OFF, CLOSED, OPENED, ON)
    ]
    assert len(set(STATE_COLOURS)) == 4


def test_equal_pictures_are_one_file() -> None:
    one = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert file_name(png(one)) == file_name(png(one.copy())) != file_name(png(one + 1))
