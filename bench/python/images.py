"""Images of a program as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts.dataset import Array, Dataset
from bench.errors import DataError
from bench.image import to_grid
from bench.terminal import counted, one_line

SPLIT = "given"


class GivenImages(Dataset):
    """Images that a program hands over, on the 8-bit grid; ids are "image-0", "image-1" and so on.

    Args:
        images: (N, C, H, W), uint8, or floats in [0,1], which are rounded to the 8-bit grid.
        labels: (N,) whole numbers below `classes`; None where nobody knows them.
        classes: K, the number of classes.
        note: shown beside every number.

    Raises:
        DataError: shape, type or range is another.
    """

    splits = (SPLIT,)

    def __init__(
        self, images: Any, labels: Any | None = None, *, classes: int, note: str = ""
    ) -> None:
        self.name, self.split, self.note = "images", SPLIT, note
        self._images = _on_the_grid(images)
        count = len(self._images)
        self.label_array = _labels(labels, count, classes)
        self.classes = tuple(str(number) for number in range(classes))
        channels, height, width = self._images.shape[1:]
        self.image_shape = (channels, height, width)
        self.ids = tuple(f"image-{place}" for place in range(count))

    def pixels(self, indices: Sequence[int]) -> Array:
        """(n, C, H, W) uint8 of the images at `indices`."""
        return self._images[list(indices)].copy()


def _on_the_grid(images: Any) -> Array:
    """(N, C, H, W) uint8."""
    found = _tensor(images, "images")
    if found.ndim != 4 or found.shape[1] not in (1, 3) or not len(found):
        raise DataError(
            f"images have shape {tuple(found.shape)}, expected (N, C, H, W) with 1 or 3 channels "
            "and at least one image"
        )
    if found.dtype == torch.uint8:
        return found.numpy()
    if not found.is_floating_point():
        raise DataError(f"images are {found.dtype}, expected uint8, or floats in [0,1]")
    least, most = float(found.min()), float(found.max())
    if not 0 <= least <= most <= 1:
        raise DataError(
            f"images lie between {least:.9g} and {most:.9g}, expected [0,1]",
            hint="targets normalize inside; give the images before normalization",
        )
    return to_grid(found).numpy()


def _tensor(given: Any, what: str) -> Tensor:
    """A plain tensor on the CPU.

    Args:
        given: a tensor, an array, numbers in lists, or a list of tensors of one shape.
        what: it is, for the message.

    Raises:
        DataError: it is something else.
    """
    try:
        if isinstance(given, np.ndarray):  # torch takes neither foreign bytes nor reversed ones
            given = np.ascontiguousarray(given, given.dtype.newbyteorder("="))
        if isinstance(given, list | tuple) and given and isinstance(given[0], Tensor):
            given = torch.stack(list(given))
        found = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"{what} are {type(given).__name__}, of which torch makes no tensor: "
            f"{one_line(str(error), 120)}"
        ) from error
    if found.layout != torch.strided or found.is_quantized or found.is_meta:
        raise DataError(f"{what} are no plain tensor of numbers (sparse, quantized or meta)")
    return found


def _labels(labels: Any | None, count: int, classes: int) -> Array:
    if labels is None:
        return np.zeros(count, dtype=np.int64)
    found = _tensor(labels, "labels")
    if found.shape != (count,) or found.is_floating_point() or found.dtype == torch.bool:
        raise DataError(
            f"labels are {found.dtype} of shape {tuple(found.shape)}, expected {count} whole "
            "numbers"
        )
    if not 0 <= int(found.min()) <= int(found.max()) < classes:
        raise DataError(
            f"labels lie between {int(found.min())} and {int(found.max())}, the network tells "
            f"{counted(classes, 'class')} apart"
        )
    return found.numpy().astype(np.int64)
