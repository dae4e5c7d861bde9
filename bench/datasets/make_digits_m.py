"""Draws the data set digits-m; needed only to make it anew, since its pixels are shipped.

    python -m bench.datasets.make_digits_m OUTPUT.npz.xz

Scikit-learn's 1797 handwritten digits (8x8, 17 grey levels) are enlarged to 20-32 pixels, put at a
random place of a 32x32 patch of one of scikit-learn's two sample photographs, and blended with
opacity 0.35-1 in a color set off from the patch. So some images are easy and some hard, which is
what gates decide on. The digits are divided between train and test, class by class, and so are the
photographs: left halves for training, right halves for testing.

The bytes depend on the seed below, on scikit-learn's two files, on numpy's PCG64 stream, on
Pillow's JPEG decoder and bicubic filter, and on liblzma. A different decoder would give slightly
different photographs, hence the shipped pixels.
"""

from __future__ import annotations

import hashlib
import io
import lzma
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SEED = 20221023
SIDE = 32
TEST_DIGITS = 500
TRAIN_RENDERINGS = 4
SIZES = (20, 32)
OPACITY = (0.35, 1.0)
SET_OFF = 110.0
"""Least Euclidean distance, in gray levels, of a digit's color from the mean color behind it."""


def draw() -> dict[str, np.ndarray[Any, Any]]:
    """All arrays of the data set: `{test,train}_{images,labels,digits,opacity}`.

    Images are (N, 32, 32, 3) uint8, labels (N,) uint8; `digits` (N,) uint16 is the row of
    scikit-learn's table, and `opacity` (N,) uint8 is in percent.
    """
    from sklearn.datasets import load_digits, load_sample_image

    table = load_digits()
    strokes, classes = (table.images * (255 / 16)).round().astype(np.uint8), table.target
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    halves = {
        "train": [photo[:, : photo.shape[1] // 2] for photo in photos],
        "test": [photo[:, photo.shape[1] // 2 :] for photo in photos],
    }
    random = np.random.Generator(np.random.PCG64(SEED))
    test = _choose(classes, TEST_DIGITS, random)
    train = np.repeat(np.setdiff1d(np.arange(len(classes)), test), TRAIN_RENDERINGS)
    arrays = {}
    for split, digits in (("test", test), ("train", train)):
        random.shuffle(digits)
        drawn = [_render(strokes[digit], halves[split], random) for digit in digits]
        arrays[f"{split}_images"] = np.stack([image for image, _ in drawn])
        arrays[f"{split}_labels"] = classes[digits].astype(np.uint8)
        arrays[f"{split}_digits"] = digits.astype(np.uint16)
        arrays[f"{split}_opacity"] = np.array(
            [round(100 * opacity) for _, opacity in drawn], dtype=np.uint8
        )
    return arrays


def _choose(
    classes: np.ndarray[Any, Any], count: int, random: np.random.Generator
) -> np.ndarray[Any, Any]:
    """`count` rows, the same number of each class."""
    kinds = np.unique(classes)
    return np.concatenate(
        [
            random.permutation(np.flatnonzero(classes == kind))[: count // len(kinds)]
            for kind in kinds
        ]
    )


def _render(
    strokes: np.ndarray[Any, Any], photos: list[np.ndarray[Any, Any]], random: np.random.Generator
) -> tuple[np.ndarray[Any, Any], float]:
    """One digit on one patch: the (32, 32, 3) uint8 image and the opacity it was drawn with."""
    photo = photos[random.integers(len(photos))]
    top, left = (
        random.integers(photo.shape[0] - SIDE + 1),
        random.integers(photo.shape[1] - SIDE + 1),
    )
    patch = photo[top : top + SIDE, left : left + SIDE]
    size = int(random.integers(SIZES[0], SIZES[1] + 1))
    y, x = random.integers(SIDE - size + 1, size=2)
    opacity = random.uniform(*OPACITY)
    mask = np.zeros((SIDE, SIDE, 1))
    enlarged = Image.fromarray(strokes).resize((size, size), Image.Resampling.BICUBIC)
    mask[y : y + size, x : x + size, 0] = np.asarray(enlarged) / 255
    background = (patch * mask).sum((0, 1)) / mask.sum()
    color = random.uniform(0, 255, size=3)
    while np.linalg.norm(color - background) < SET_OFF:
        color = random.uniform(0, 255, size=3)
    return (patch + opacity * mask * (color - patch)).round().astype(np.uint8), opacity


def pack(arrays: dict[str, np.ndarray[Any, Any]]) -> bytes:
    """The arrays as an uncompressed npz inside xz; its long window finds rows that recur."""
    plain = io.BytesIO()
    np.savez(plain, allow_pickle=False, **arrays)
    return lzma.compress(plain.getvalue(), preset=9 | lzma.PRESET_EXTREME)


if __name__ == "__main__":
    packed = pack(draw())
    Path(sys.argv[1]).write_bytes(packed)
    print(f"{len(packed)} bytes, sha256 {hashlib.sha256(packed).hexdigest()}")
