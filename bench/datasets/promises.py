"""What every data set keeps to, whoever wrote it: rows whenever one is opened, pixels when a run
begins, both in `gatebench plugin test`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.contracts.dataset import Dataset, checked_pixels
from bench.errors import ContractBroken, DataError

LOOKED_AT = 8
"""Images that are decoded, from both ends."""


def check_rows(dataset: Dataset) -> None:
    """Refuse a data set whose ids, labels or classes would make a number silently wrong.

    Labels that count from 1, labels as fractions or in one-hot form, and ids that two images share
    are what people hand in.

    Raises:
        DataError: there are no images.
        ContractBroken: saying what is there and what is expected.
    """
    import numpy as np

    name = f"data set {type(dataset).__name__}"
    missing = [one for one in _SET if not hasattr(dataset, one)]
    if missing:
        raise ContractBroken(
            f"{name} does not set {', '.join(missing)}",
            hint="set them in __init__, as bench.api.Dataset lists them",
        )
    _check_words(dataset, name)
    ids, labels = tuple(dataset.ids), np.array(dataset.label_array)
    count = len(ids)
    if not count:
        raise DataError(f"{dataset} has no images")
    known = set(ids)
    if not all(isinstance(one, str) and one for one in known) or len(known) != count:
        raise ContractBroken(
            f"{name}: ids are texts, none of them empty, and no two images share one",
            hint="make ids of the split and of a file's name, or of the content as "
            "content_ids does",
        )
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise ContractBroken(
            f"{name}: label_array is {labels.dtype} of shape {labels.shape}, "
            f"expected ({count},) int64",
            hint="labels.astype('int64'), one place in `classes` for each image",
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(dataset.classes):
        raise ContractBroken(
            f"{name}: labels lie between {labels.min()} and {labels.max()}, there are "
            f"{len(dataset.classes)} classes",
            hint="labels are places in `classes`, from 0 on",
        )
    if tuple(dataset.ids) != ids or not np.array_equal(dataset.label_array, labels):
        raise ContractBroken(
            f"{name}: ids or label_array differ from one look to the next",
            hint="set both in __init__, and change them nowhere else",
        )


_SET = ("name", "split", "classes", "ids", "label_array", "image_shape")


def _check_words(dataset: Dataset, name: str) -> None:
    """Refuse a name, classes or a shape that mean nothing."""
    if not isinstance(dataset.name, str) or not dataset.name.strip() or ":" in dataset.name:
        raise ContractBroken(
            f"{name}: name is {dataset.name!r}; it stands before the colon in a plan",
            hint="set name to a short text without a colon",
        )
    shape = tuple(dataset.image_shape)
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ContractBroken(
            f"{name}: image_shape is {dataset.image_shape!r}, expected (3, H, W)",
            hint="set image_shape to three whole numbers above 0, channels first",
        )
    if not all(isinstance(one, str) for one in dataset.classes):
        raise ContractBroken(
            f"{name}: classes are texts, got {tuple(dataset.classes)[:4]!r}",
            hint="name each class with a str",
        )


def check_declared(dataset: Dataset) -> None:
    """Refuse a data set that is other than its class says, or whose images are not its pixels.

    Raises:
        ContractBroken: saying what is there and what is expected.
    """
    kind: Any = type(dataset)
    sizes: Mapping[str, int] = kind.sizes
    if sizes and sizes.get(dataset.split) != len(dataset):
        raise ContractBroken(
            f"{dataset}: sizes says {sizes.get(dataset.split)} for {dataset.split!r}, there are "
            f"{len(dataset)}",
            hint="correct `sizes`, or leave it out where the number is not known beforehand",
        )
    shape = getattr(kind, "image_shape", None)
    if isinstance(shape, tuple) and tuple(dataset.image_shape) != shape:
        raise ContractBroken(
            f"{dataset}: image_shape is {dataset.image_shape}, the class says {shape}",
            hint="correct image_shape of the class, or leave it out there and set it in __init__",
        )
    for name in ("images", "labels"):
        if getattr(kind, name) is not getattr(Dataset, name):
            raise ContractBroken(
                f"{dataset}: it has {name} of its own",
                hint="images and labels follow pixels and label_array",
            )


def check_pixels(dataset: Dataset) -> None:
    """Refuse pixels that are not the same each time, in the order that is asked for, and a copy.

    Raises:
        ContractBroken: saying what they are.
    """
    import numpy as np

    places = sorted({*range(min(LOOKED_AT, len(dataset))), len(dataset) - 1})
    pixels = checked_pixels(dataset, places)
    kept = pixels.copy()
    if not np.array_equal(checked_pixels(dataset, places), kept):
        raise ContractBroken(
            f"{dataset}: pixels(indices) differ from one call to the next",
            hint="decode without random crops, flips or other augmentation",
        )
    if not np.array_equal(checked_pixels(dataset, places[::-1]), kept[::-1]):
        raise ContractBroken(
            f"{dataset}: pixels(indices) does not follow the order of the indices",
            hint="return the images in the order of `indices`, repeated ones included",
        )
    if not pixels.flags.writeable:
        return
    pixels[:] = 255 - pixels
    if not np.array_equal(checked_pixels(dataset, places), kept):
        raise ContractBroken(
            f"{dataset}: pixels returns its own memory: who writes into it changes the data set",
            hint="return a copy: pixels.copy()",
        )
