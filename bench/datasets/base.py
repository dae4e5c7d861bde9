"""Data sets by name, and subsets of them pinned by the ids of their images.

A data set is named "NAME:SPLIT" in plans. Nothing here imports torch before pixels are asked for,
so plans are read without it. Where a data set lies on disk is in no id, no digest and no message of
a result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from bench.contracts.dataset import Array, Dataset, Part, checked_pixels
from bench.datasets.promises import check_rows
from bench.errors import (
    DataError,
    GatebenchError,
    PlanError,
    PluginError,
    did_you_mean,
    in_words,
)

Item = TypeVar("Item")

_AT_A_TIME = 64
"""Images that are decoded at a time where all of a subset are looked at."""


def padded(items: Sequence[Item], count: int) -> list[Item]:
    """The items of a short batch, repeated in order up to `count`.

    Every batch of a protocol has the same size, so that an image is evaluated by the same kernels
    whichever batch it is in.

    Args:
        items: at least one, at most `count`.
        count: the size of a batch.

    Example:
        >>> padded(["a", "b"], 5)
        ['a', 'b', 'a', 'b', 'a']
    """
    return [items[place % len(items)] for place in range(count)]


def split_off(dataset: Dataset, share: float, limit: int = 0) -> tuple[Part, Part]:
    """Divide a data set in two.

    Args:
        dataset: to divide.
        share: of the images, in [0,1), that the second part gets: the first ones in the fixed order
            of `subset`.
        limit: images that are divided, the first in that order; 0 for all.

    Returns:
        (the others, the share); the second is empty where the share is 0.

    Raises:
        PlanError: there are fewer than `limit` images.
    """
    whole = sorted(subset(dataset, limit)) if limit else range(len(dataset))
    chosen = sorted(subset(dataset, round(share * len(whole)))) if share else []
    held = set(chosen)
    rest = tuple(index for index in whole if index not in held)
    return Part(dataset, rest), Part(dataset, tuple(chosen))


def parse_name(name: str, where: str = "dataset") -> tuple[str, str]:
    """("digits-m", "test") from "digits-m:test".

    Raises:
        PlanError: there is no split in it.
    """
    base, colon, split = name.partition(":")
    if not (base and colon and split):
        raise PlanError(
            f'{where}: a data set is written NAME:SPLIT, for example "digits-m:test", got {name!r}'
        )
    return base, split


def check_split(kind: type[Dataset], name: str, split: str, where: str = "dataset") -> None:
    """Refuse a split that the data set `name` does not have.

    Raises:
        PlanError: naming the place and the nearest split.
    """
    if split not in kind.splits:
        raise PlanError(f"{where}: {name} has no split {split!r}{did_you_mean(split, kind.splits)}")


def open_dataset(name: str, data_root: str | Path | None = None) -> Dataset:
    """Open a data set by its name in a plan.

    Args:
        name: "NAME:SPLIT"; NAME is what a package provides under the entry-point group
            `gatebench.datasets`.
        data_root: the folder it lies in; each data set says what it looks for there, and where
            without it.

    Raises:
        UnknownName, PlanError: the name or the split is not known.
        DataError: it is not there, cannot be read, or is damaged.
        PluginError: what a package provides is no data set, or raised something else; its ids,
            labels or classes are not what the contract says.
    """
    from bench.plugins import registry

    base, split = parse_name(name)
    kind: type[Dataset] = registry.load("dataset", base)
    if not (isinstance(kind, type) and issubclass(kind, Dataset)):
        raise PluginError(f"data set {base!r} is {kind!r}, no bench.api.Dataset")
    check_split(kind, base, split)
    try:
        dataset = kind(split, Path(data_root) if data_root else None)  # type: ignore[call-arg]
    except (GatebenchError, MemoryError):
        raise
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{base}: {error.filename or 'the data'} cannot be read: {reason}",
            hint="--data-root names the folder that the data lies in",
        ) from error
    except Exception as error:  # it may be anybody's
        raise PluginError(f"data set {base!r} cannot be opened: {in_words(error)}") from error
    check_rows(dataset)
    return dataset


def subset(dataset: Dataset, n: int) -> list[int]:
    """Indices of the first `n` images in a fixed order: that of the sha256 of the id.

    A larger subset contains the smaller ones, and the order has nothing to do with how the files
    are sorted.

    Raises:
        PlanError: there are fewer than `n` images.
    """
    if n < 1:
        raise PlanError(f"images: at least 1, got {n}")
    if n > len(dataset):
        raise PlanError(f"images: {n} asked for, {dataset} has {len(dataset)}")
    return sorted(
        range(len(dataset)), key=lambda index: hashlib.sha256(dataset.ids[index].encode()).digest()
    )[:n]


def subset_digest(dataset: Dataset, indices: Sequence[int]) -> str:
    """sha256 (hex) over ids, labels and pixels of the images at `indices`, in that order."""
    return subset_digests(dataset, indices)[0]


def subset_digests(dataset: Dataset, indices: Sequence[int]) -> tuple[str, tuple[str, ...]]:
    """(`subset_digest`, `image_digest` of each image at `indices`)."""
    total, each = hashlib.sha256(), []
    for index, picture in _pictures(dataset, indices):
        name, label = dataset.ids[index], int(dataset.label_array[index])
        total.update(_image_bytes(name, label, picture))
        each.append(image_digest(name, label, picture))
    return total.hexdigest(), tuple(each)


def image_digest(name: str, label: int, picture: Array) -> str:
    """16 hex digits of the sha256 over an image's id, label and (3, H, W) uint8 pixels."""
    return hashlib.sha256(_image_bytes(name, label, picture)).hexdigest()[:16]


def _image_bytes(name: str, label: int, picture: Array) -> bytes:
    encoded = name.encode()
    return f"{len(encoded)} {label} {picture.shape}".encode() + encoded + picture.tobytes()


def check_disjoint(
    first: Dataset,
    first_indices: Sequence[int],
    second: Dataset,
    second_indices: Sequence[int],
    what: str,
    *,
    allowed: int = 0,
) -> None:
    """Refuse two subsets that have a picture in common, whatever it is called in either.

    Args:
        first: the images that are learned from.
        first_indices: of `first`.
        second: the images that are scored.
        second_indices: of `second`.
        what: what learns, the beginning of the message.
        allowed: pictures in common that are tolerated.

    Raises:
        PlanError: pictures of one are, pixel by pixel, pictures of the other.
    """
    scored = {
        hashlib.sha256(picture.tobytes()).digest(): index
        for index, picture in _pictures(second, second_indices)
    }
    shared = [
        (index, scored[digest])
        for index, picture in _pictures(first, first_indices)
        if (digest := hashlib.sha256(picture.tobytes()).digest()) in scored
    ]
    if len(shared) > allowed:
        mine, theirs = shared[0]
        raise PlanError(
            f"{what}: {len(shared)} of the {len(first_indices)} images are scored too: "
            f"{first.ids[mine]} is {second.ids[theirs]} of {second}, pixel by pixel",
            hint="what is learned from images that are scored proves nothing; keep them apart",
        )


def check_classes(label: str, classes: int, dataset: Dataset) -> None:
    """Refuse a network that tells another number of classes apart than a data set has.

    Args:
        label: of the network.
        classes: that it tells apart.
        dataset: it is to be run on.

    Raises:
        PlanError: naming both numbers.
    """
    if classes != len(dataset.classes):
        raise PlanError(
            f"{label} tells {classes} classes apart, {dataset} has {len(dataset.classes)}: its "
            "labels would mean other classes than the network's",
            hint="where the data is a subset of the network's classes, name them all: for image "
            "folders in classes.txt, a class a line in the network's order",
        )


def classes_digest(classes: Sequence[str]) -> str:
    """What tells classes and their order apart: 16 hex digits of a sha256 over their names.

    Image folders of any classes share one name, so the name of a data set does not say whether a
    network was trained on these.
    """
    return hashlib.sha256("\n".join(classes).encode()).hexdigest()[:16]


def rows_digest(dataset: Dataset) -> str:
    """What tells the images of a data set apart without decoding them: 16 hex digits of a sha256
    over classes, ids and labels.
    """
    total = hashlib.sha256(classes_digest(dataset.classes).encode())
    for name, label in zip(dataset.ids, dataset.label_array.tolist(), strict=True):
        total.update(f"{label} {name}\n".encode())
    return total.hexdigest()[:16]


def require_folder(path: Path, name: str) -> Path:
    """`path`, if it is a folder.

    Raises:
        DataError: it is not there, or is no folder.
    """
    if not path.is_dir():
        raise DataError(
            f"{name}: {path} is {'no folder' if path.exists() else 'not there'}",
            hint="--data-root names the folder that the data lies in",
        )
    return path


def _pictures(dataset: Dataset, indices: Sequence[int]) -> Iterator[tuple[int, Array]]:
    """(index, pixels) of each image, a few at a time in memory."""
    for start in range(0, len(indices), _AT_A_TIME):
        part = list(indices[start : start + _AT_A_TIME])
        yield from zip(part, checked_pixels(dataset, part), strict=True)
