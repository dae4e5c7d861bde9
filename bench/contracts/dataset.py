"""What a data set is: uint8 images with stable ids and labels."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from bench.errors import ContractBroken

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor


Array: TypeAlias = "np.ndarray[Any, Any]"


class Dataset(ABC):
    """Images of one split, each with an id that stays the same wherever and however it is stored.

    It is constructed with `(split, data_root)`: the split's name, and the folder (`pathlib.Path`)
    in which data sets lie, or None. Class attributes are read from the source without importing
    it, so their values are literals.

    Required methods: `__init__`, `pixels`.
    Required attributes, set in `__init__`: `name`, `split`, `classes`, `ids`, `label_array`,
    `image_shape`.

    Attributes:
        splits: the names that may follow the colon in a plan.
        sizes: images a split, where that is fixed; a plan is checked against it before anything is
            read.
        note: a caveat shown beside every number ("for trying, not for claims"); may be empty.
        credits: lines to show wherever the pictures are shown.
        flip_allowed: whether a mirrored image keeps its class, so that training may mirror it.
        name: as shown everywhere; may differ from the name asked for ("cifar10-jpeg").
        split: of this instance.
        classes: names, in label order.
        ids: stable, unique.
        label_array: (N,) int64.
        image_shape: (3, H, W).
    """

    splits: ClassVar[Sequence[str]] = ("train", "test")
    sizes: ClassVar[Mapping[str, int]] = {}
    note: str = ""
    credits: ClassVar[Sequence[str]] = ()
    flip_allowed: ClassVar[bool] = True

    name: str
    split: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    label_array: Array
    image_shape: tuple[int, int, int]

    @abstractmethod
    def pixels(self, indices: Sequence[int]) -> Array:
        """(n, 3, H, W) uint8 of the images at `indices`, in that order."""

    def images(self, indices: Iterable[int]) -> Tensor:
        """(n, 3, H, W) uint8 tensor of the images at `indices`, in that order; a copy."""
        import numpy as np
        import torch

        pixels = checked_pixels(self, [int(index) for index in indices])
        return torch.from_numpy(np.ascontiguousarray(pixels))

    @cached_property
    def labels(self) -> Tensor:
        """(N,) int64 tensor."""
        import torch

        return torch.from_numpy(self.label_array.astype("int64"))

    def __len__(self) -> int:
        return len(self.ids)

    def __str__(self) -> str:
        return f"{self.name}:{self.split}"


class PixelDataset(Dataset):
    """A data set small enough to lie in memory; ids come from the pixels.

    An id is the split and 16 hex digits of the sha256 of the (H, W, 3) bytes, so the same picture
    has the same id in every form the data set comes in. Identical pictures get a suffix, in the
    order of their labels.
    """

    def hold(self, pictures: Array, labels: Array) -> None:
        """Keep `pictures` (N, H, W, 3) uint8 with `labels` (N,), and name them.

        Raises:
            ContractBroken: they are of another type or shape; nothing is rounded or rescaled.
        """
        if pictures.dtype != "uint8" or pictures.ndim != 4 or pictures.shape[3] != 3:
            raise ContractBroken(
                f"pictures are {pictures.dtype} of shape {pictures.shape}, "
                "expected (N, H, W, 3) uint8",
                hint="hand over uint8 values 0 to 255 with channels last; fractions "
                "times 255, rounded",
            )
        if labels.shape != (len(pictures),) or labels.dtype.kind not in "iu":
            raise ContractBroken(
                f"labels are {labels.dtype} of shape {labels.shape}, "
                f"expected ({len(pictures)},) integers",
                hint="hand over one whole number an image, its place in `classes`",
            )
        self._pictures = pictures
        self.label_array = labels.astype("int64")
        self.image_shape = (3, pictures.shape[1], pictures.shape[2])
        self.ids = content_ids(self.split, pictures, self.label_array)

    def pixels(self, indices: Sequence[int]) -> Array:
        return self._pictures[list(indices)].transpose(0, 3, 1, 2).copy()


def checked_pixels(dataset: Dataset, indices: Sequence[int]) -> Array:
    """(n, 3, H, W) uint8 of the images at `indices`, as `Dataset.pixels` gives them.

    Raises:
        ContractBroken: they are of another type or shape.
    """
    import numpy as np

    pixels = np.asarray(dataset.pixels(indices))
    expected = (len(indices), *dataset.image_shape)
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise ContractBroken(
            f"{dataset}: pixels are {pixels.dtype} of shape {pixels.shape}, expected {expected} "
            "uint8",
            hint="return uint8 of (images, 3, image_shape[1], image_shape[2]) for "
            "the indices that are asked for",
        )
    return pixels


@dataclass(frozen=True)
class Part:
    """Some of the images of a data set, numbered anew.

    Attributes:
        whole: the data set.
        indices: the place of each image in it.
    """

    whole: Dataset
    indices: tuple[int, ...]

    @property
    def flip_allowed(self) -> bool:
        """Whether a mirrored image keeps its class."""
        return self.whole.flip_allowed

    @cached_property
    def labels(self) -> Tensor:
        """(n,) int64 tensor."""
        return self.whole.labels[list(self.indices)]

    def images(self, indices: Iterable[int]) -> Tensor:
        """(n, 3, H, W) uint8 tensor of the images at `indices` of this part."""
        return self.whole.images(self.indices[index] for index in indices)

    def __len__(self) -> int:
        return len(self.indices)


def content_ids(split: str, pictures: Array, labels: Array) -> tuple[str, ...]:
    """Ids such as "test-0123456789abcdef", made from the pixels.

    Args:
        split: the first part of every id.
        pictures: (N, H, W, 3) uint8.
        labels: (N,), which order identical pictures; all but the first get "-2", "-3" and so on.
    """
    plain = [
        f"{split}-{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}" for picture in pictures
    ]
    ids, seen = list(plain), dict[str, int]()
    for index in labels.argsort(kind="stable"):
        name = plain[index]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            ids[index] = f"{name}-{seen[name]}"
    return tuple(ids)
