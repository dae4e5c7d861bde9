"""Amplified differences and sheets of pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFile
from synthetic import png

from reports.html.pictures import (
    LARGEST,
    amplification,
    amplified_difference,
    contact_sheet,
    file_name,
)
from reports.html.pictures import pixels as shown_pixels


def pixels(data: bytes | None) -> np.ndarray:
    assert data is not None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


def test_the_difference_is_amplified_around_grey() -> None:
    clean = np.full((4, 4, 3), 100, dtype=np.uint8)
    other = clean.copy()
    other[0, 0] = (105, 95, 100)
    shown = amplified_difference(clean, other, 25)
    assert shown[0, 0].tolist() == [253, 3, 128]
    assert (shown[1:] == 128).all()


def test_the_factor_uses_the_whole_range_and_clips_nothing() -> None:
    for largest in range(256):
        factor = amplification(largest)
        assert factor >= 1
        assert factor == 1 or (factor * largest <= 127 < (factor + 1) * largest) or largest == 0


def test_every_picture_lies_where_the_sheet_says() -> None:
    random = np.random.default_rng(0)
    small, large = (
        random.integers(0, 255, (side, side + 1, 3)).astype(np.uint8) for side in (4, 6)
    )
    sheet = contact_sheet([[small, None, large], [large, small, None]])
    drawn = pixels(sheet.content)
    assert drawn.shape == (sheet.height, sheet.width, 3)
    for line, expected in zip(
        sheet.places, ([small, None, large], [large, small, None]), strict=True
    ):
        for place, one in zip(line, expected, strict=True):
            assert (place is None) == (one is None)
            if place is not None:
                cut = drawn[place.y : place.y + place.height, place.x : place.x + place.width]
                assert (cut == one).all()


def test_a_sheet_without_pictures_is_empty() -> None:
    sheet = contact_sheet([[None, None]])
    assert (sheet.content, sheet.places) == (b"", ((None, None),))


def test_equal_pictures_are_one_file() -> None:
    one = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert file_name(png(one)) == file_name(png(one.copy())) != file_name(png(one + 1))


def test_pictures_too_large_to_show_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 1 + int(LARGEST**0.5)
    one, large = (png(np.zeros((n, n, 3), dtype=np.uint8)) for n in (4, side))
    decoded: list[tuple[int, int]] = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(
        ImageFile.ImageFile, "load", lambda picture: decoded.append(picture.size) or load(picture)
    )
    assert shown_pixels(large) is None
    assert shown_pixels(one) is not None
    assert set(decoded) == {(4, 4)}
