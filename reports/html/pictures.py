"""Pictures of a report: the amplified difference of two saved images, and gate maps, as PNG.

Only pixels are written, in a fixed way, so that the same board gives the same bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from PIL import Image

from bench.codec import as_rgb, read_picture
from bench.errors import DataError

PNG = b"\x89PNG\r\n\x1a\n"

CIFAR10_STD, IMAGENET_STD = (0.2023, 0.1994, 0.2010), (0.229, 0.224, 0.225)
"""Standard deviations of the channels, by which the original scripts divide images in [0,1]."""

OFF, CLOSED, OPENED, ON = 0, 1, 2, 3
"""State of a unit over the pair (clean, adversarial): never ran; ran only clean; only adversarial; both."""

STATE_COLOURS = ((226, 230, 236), (123, 92, 199), (224, 102, 26), (44, 112, 186))
"""Off, closed by the attack, opened by the attack, on. Apart in lightness too, for eyes that do not tell the hues apart."""


def is_png(data: bytes) -> bool:
    """Whether the bytes start as a PNG does; nothing else is put on a page."""
    return data.startswith(PNG)


def file_name(data: bytes) -> str:
    """A name made of the content, so that equal pictures are one file."""
    return f"{sha256(data).hexdigest()[:20]}.png"


def amplification(largest: int) -> int:
    """The whole factor that spreads differences of up to `largest` grey levels over the picture's range; at least 1."""
    return max(1, 127 // largest) if largest > 0 else 1


def amplified_difference(clean: bytes, adversarial: bytes, factor: int) -> bytes | None:
    """PNG of 128 + factor * (x' - x), clipped to 0..255: grey is "no change".

    None where either is not a readable PNG or their sizes differ.
    """
    pair = pixels(clean), pixels(adversarial)
    if pair[0] is None or pair[1] is None or pair[0].shape != pair[1].shape:
        return None
    difference = pair[1].astype(np.int32) - pair[0].astype(np.int32)
    return encode(np.clip(128 + factor * difference, 0, 255).astype(np.uint8))


def pixels(data: bytes) -> np.ndarray | None:
    if not is_png(data):
        return None
    try:
        return np.asarray(as_rgb(read_picture(data, ("PNG",))))
    except DataError:
        return None


def encode(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint8 -> PNG bytes without metadata."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=False, compress_level=6)
    return out.getvalue()


def normalised_error(pairs: Sequence[tuple[bytes, bytes]]) -> float | None:
    """PSNR as GradAuto's paper is consistent with: peak 255 over the mean squared error of images divided by the data's std.

    The std is CIFAR-10's up to 64 pixels a side and ImageNet's above, as the attacks' own `statistics = "auto"` has it.

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


def state_map(states: Sequence[Sequence[int]]) -> bytes:
    """PNG of a map of unit states, one pixel a unit; the page scales it up without smoothing."""
    palette = np.array(STATE_COLOURS, dtype=np.uint8)
    return encode(palette[np.asarray(states, dtype=np.int64)])
