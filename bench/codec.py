"""Saved images as bytes and back: PNG without loss, and the JPEG round trip that survival is measured through."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

JPEG_QUALITY = 90


def png(image: Tensor) -> bytes:
    """PNG bytes of a (C, H, W) uint8 image, C 1 or 3."""
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def decoded(pictures: Sequence[bytes]) -> Tensor:
    """(N, C, H, W) uint8 from PNG or JPEG bytes."""
    return torch.stack([_pixels(Image.open(io.BytesIO(data))) for data in pictures])


def through_jpeg(saved: Tensor, quality: int = JPEG_QUALITY) -> Tensor:
    """(N, C, H, W) uint8 images saved as JPEG (Pillow's encoder, its default 4:2:0 chroma) and loaded again."""
    found = []
    for image in saved:
        buffer = io.BytesIO()
        _picture(image).save(buffer, format="JPEG", quality=quality)
        found.append(_pixels(Image.open(io.BytesIO(buffer.getvalue()))))
    return torch.stack(found)


def _picture(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


def _pixels(picture: Image.Image) -> Tensor:
    array = np.array(picture)
    return (
        torch.from_numpy(array[:, :, None] if array.ndim == 2 else array)
        .permute(2, 0, 1)
        .contiguous()
    )
