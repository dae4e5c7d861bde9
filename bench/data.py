"""Data sets: 8-bit RGB images with stable ids, and subsets pinned by those ids.

A data set is named "NAME:SPLIT" in plans. Nothing here imports torch before pixels are asked for, so plans are read
without it. Where a data set lies on disk is in no id, no digest and no message of a result.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from bench.errors import DataError, PlanError, did_you_mean

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Array: TypeAlias = "np.ndarray[Any, Any]"


class Dataset(ABC):
    """Images of one split, each with an id that stays the same wherever and however it is stored.

    A subclass is constructed with `(split, data_root)` and sets the attributes below.

    Attributes:
        splits: the names that may follow the colon.
        sizes: images a split, where that is fixed; lets a plan be checked before anything is read.
        note: a caveat shown beside every number ("for trying, not for claims"); may be empty.
        credits: lines to show wherever the pictures are shown.
        flip_allowed: whether a mirrored image keeps its class: what training may use as augmentation.
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

        return torch.from_numpy(np.ascontiguousarray(self.pixels([int(i) for i in indices])))

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

    An id is the split and 16 hex digits of the sha256 of the (H, W, 3) bytes, so the same picture has the same id in
    every form the data set comes in. Identical pictures are told apart by a suffix, in the order of their labels.
    """

    def hold(self, pictures: Array, labels: Array) -> None:
        """Keep `pictures` (N, H, W, 3) uint8 with `labels` (N,), and name them."""
        self._pictures = pictures
        self.label_array = labels.astype("int64")
        self.image_shape = (3, pictures.shape[1], pictures.shape[2])
        self.ids = content_ids(self.split, pictures, self.label_array)

    def pixels(self, indices: Sequence[int]) -> Array:
        return self._pictures[list(indices)].transpose(0, 3, 1, 2).copy()


@dataclass(frozen=True)
class Part:
    """Some of the images of a data set, numbered anew.

    Attributes:
        whole: the data set. indices: the place of each image in it.
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


def split_off(dataset: Dataset, share: float) -> tuple[Part, Part]:
    """(the others, a share of the images): the first ones in the fixed order of `subset`, and none where the share is 0."""
    chosen = sorted(subset(dataset, round(share * len(dataset)))) if share else []
    held = set(chosen)
    rest = tuple(index for index in range(len(dataset)) if index not in held)
    return Part(dataset, rest), Part(dataset, tuple(chosen))


def content_ids(split: str, pictures: Array, labels: Array) -> tuple[str, ...]:
    """Ids such as "test-0123456789abcdef" from the pixels; repeats get "-2", "-3" … in the order of their labels."""
    plain = [f"{split}-{hashlib.sha256(picture.tobytes()).hexdigest()[:16]}" for picture in pictures]
    ids, seen = list(plain), dict[str, int]()
    for index in labels.argsort(kind="stable"):
        name = plain[index]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            ids[index] = f"{name}-{seen[name]}"
    return tuple(ids)


def parse_name(name: str, where: str = "dataset") -> tuple[str, str]:
    """("digits-m", "test") from "digits-m:test".

    Raises:
        PlanError: there is no split in it.
    """
    base, colon, split = name.partition(":")
    if not (base and colon and split):
        raise PlanError(f'{where}: a data set is written NAME:SPLIT, for example "digits-m:test", got {name!r}')
    return base, split


def check_split(kind: type[Dataset], name: str, split: str, where: str = "dataset") -> None:
    """Refuse a split that the data set `name` does not have.

    Raises:
        PlanError: naming the place and the nearest split.
    """
    if split not in kind.splits:
        raise PlanError(f"{where}: {name} has no split {split!r}{did_you_mean(split, kind.splits)}")


def open_dataset(name: str, data_root: Path | None = None) -> Dataset:
    """Open a data set by its name in a plan.

    Args:
        name: "NAME:SPLIT"; NAME is what a package provides under the entry-point group `gatebench.datasets`.
        data_root: the folder it lies in; each data set says what it looks for there, and where without it.

    Raises:
        UnknownName, PlanError: the name or the split is not known.
        DataError: it is not there, or damaged.
    """
    from bench import registry

    base, split = parse_name(name)
    kind: type[Dataset] = registry.load("dataset", base)
    check_split(kind, base, split)
    return kind(split, data_root)  # type: ignore[call-arg]


def subset(dataset: Dataset, n: int) -> list[int]:
    """Indices of the first `n` images in a fixed order: that of the sha256 of the id.

    A larger subset contains the smaller ones, and the order has nothing to do with how the files are sorted.

    Raises:
        PlanError: there are fewer than `n` images.
    """
    if n < 1:
        raise PlanError(f"images: at least 1, got {n}")
    if n > len(dataset):
        raise PlanError(f"images: {n} asked for, {dataset} has {len(dataset)}")
    return sorted(range(len(dataset)), key=lambda index: hashlib.sha256(dataset.ids[index].encode()).digest())[:n]


def subset_digest(dataset: Dataset, indices: Sequence[int]) -> str:
    """sha256 (hex) over ids, labels and pixels of the images at `indices`, in that order: what makes rows comparable."""
    total = hashlib.sha256()
    for start in range(0, len(indices), 64):
        part = list(indices[start : start + 64])
        for index, picture in zip(part, dataset.pixels(part), strict=True):
            name = dataset.ids[index].encode()
            total.update(f"{len(name)} {int(dataset.label_array[index])} {picture.shape}".encode() + name)
            total.update(picture.tobytes())
    return total.hexdigest()


def require_folder(path: Path, name: str) -> Path:
    """`path`, if it is a folder.

    Raises:
        DataError: it is not there, or is no folder.
    """
    if not path.exists():
        raise DataError(f"{name}: {path} is not there", hint="--data-root names the folder that the data lies in")
    if not path.is_dir():
        raise DataError(f"{name}: {path} is no folder", hint="--data-root names the folder that the data lies in")
    return path
