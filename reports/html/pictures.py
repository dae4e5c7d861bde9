"""Pictures of a report: the amplified difference of two saved images, and sheets of many pictures.

Only pixels are written, in a fixed way, so that the same board gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import numpy.typing as npt
from PIL import Image

from bench.codec import as_rgb, read_picture
from bench.errors import DataError

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) uint8."""

LARGEST = 2**21
"""The most pixels of a picture that is shown: six of a cell are in memory at once, thrice."""

PNG = b"\x89PNG\r\n\x1a\n"

CIFAR10_STD, IMAGENET_STD = (0.2023, 0.1994, 0.2010), (0.229, 0.224, 0.225)
"""Standard deviations of the channels, by which the original scripts divide images in [0,1]."""


def is_png(data: bytes) -> bool:
    """Whether the bytes start as a PNG does; nothing else is put on a page."""
    return data.startswith(PNG)


def file_name(data: bytes) -> str:
    """A name made of the content, so that equal pictures are one file."""
    return f"{sha256(data).hexdigest()[:20]}.png"


def amplification(largest: int) -> int:
    """The whole factor that spreads differences of up to `largest` gray levels over the picture's
    range; at least 1.
    """
    return max(1, 127 // largest) if largest > 0 else 1


def amplified_difference(clean: Pixels, adversarial: Pixels, factor: int) -> Pixels:
    """128 + factor * (x' - x), clipped to 0..255: gray is "no change".

    Args:
        clean: (H, W, 3) uint8.
        adversarial: of the same shape.
        factor: a whole number.
    """
    difference = adversarial.astype(np.int32) - clean.astype(np.int32)
    return np.clip(128 + factor * difference, 0, 255).astype(np.uint8)


@dataclass(frozen=True)
class Cutout:
    """Where a picture lies on a contact sheet, in pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class ContactSheet:
    """Many pictures in one file.

    Attributes:
        name: of the file, made of its content.
        content: PNG bytes; empty where there is no picture.
        width: of the sheet.
        height: of the sheet.
        places: of each picture, by line and column; None where there is none.
    """

    name: str
    content: bytes
    width: int
    height: int
    places: tuple[tuple[Cutout | None, ...], ...]


def contact_sheet(lines: Sequence[Sequence[Pixels | None]], gap: int = 2) -> ContactSheet:
    """Pictures as one sheet, a line of them below the other.

    Args:
        lines: (H, W, 3) uint8 each, of any sizes; None leaves a place empty.
        gap: gray pixels between two pictures.
    """
    there = [one for line in lines for one in line if one is not None]
    if not there:
        return ContactSheet("", b"", 0, 0, tuple(tuple(None for _ in line) for line in lines))
    tall, wide = (max(one.shape[side] for one in there) + gap for side in (0, 1))
    columns = max(len(line) for line in lines)
    sheet = np.full((len(lines) * tall - gap, columns * wide - gap, 3), 128, dtype=np.uint8)
    places: list[tuple[Cutout | None, ...]] = []
    for row, line in enumerate(lines):
        found: list[Cutout | None] = []
        for column, one in enumerate(line):
            if one is None:
                found.append(None)
                continue
            x, y, (height, width) = column * wide, row * tall, one.shape[:2]
            sheet[y : y + height, x : x + width] = one
            found.append(Cutout(x, y, width, height))
        places.append(tuple(found))
    content = encode(sheet)
    return ContactSheet(file_name(content), content, sheet.shape[1], sheet.shape[0], tuple(places))


def pixels(data: bytes) -> Pixels | None:
    """(H, W, 3) uint8 of a PNG; None where the bytes are none, or too large a picture to show."""
    if not is_png(data):
        return None
    try:
        return np.asarray(as_rgb(read_picture(data, ("PNG",), None, LARGEST)))
    except DataError:
        return None


def encode(pixels: Pixels) -> bytes:
    """(H, W, 3) uint8 -> PNG bytes without metadata."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=False, compress_level=6)
    return out.getvalue()


def normalized_error(pairs: Sequence[tuple[bytes, bytes]]) -> float | None:
    """PSNR as GradAuto's paper is consistent with: peak 255 over the mean squared error of images
    divided by the data's std.

    The std is CIFAR-10's up to 64 pixels a side and ImageNet's above, as the attacks' own
    `statistics = "auto"` has it.

    Args:
        pairs: clean and adversarial PNG of each image.

    Returns:
        dB of the mean over all images; None where nothing can be read, or nothing changed.
    """
    errors = []
    for clean, adversarial in pairs:
        before, after = pixels(clean), pixels(adversarial)
        if before is None or after is None or before.shape != after.shape:
            continue
        std = np.array(CIFAR10_STD if before.shape[1] <= 64 else IMAGENET_STD)
        errors.append(float((((after.astype(np.float64) - before) / 255 / std) ** 2).mean()))
    mean = float(np.mean(errors)) if errors else 0.0
    return float(10 * np.log10(255**2 / mean)) if mean > 0 else None
