"""Contract tests of data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts.dataset import Dataset
from bench.datasets.base import subset, subset_digest
from bench.testing.findings import Finding, NotKept, found

LOOKED_AT = 8
"""Images that are decoded, from both ends."""


def check_dataset(
    make: Callable[[str, Path | None], Dataset], data_root: Path | None = None
) -> list[Finding]:
    """Check a data set against its contract, every split of it.

    Args:
        make: the class; it is called with (split, data_root).
        data_root: the folder that it lies in.

    Returns:
        One finding a promise and split; `problems` lists those that are broken.

    Examples:
        >>> from bench.datasets.digits_m import DigitsM
        >>> from bench.testing import check_dataset, problems
        >>> problems(check_dataset(DigitsM))
        []
    """
    splits: Sequence[str] = getattr(make, "splits", ())
    if not splits or isinstance(splits, str):
        said = f"splits is {splits!r}; name them in a tuple, such as ('train', 'test')"
        return [Finding("it says which splits it has", said)]
    findings: list[Finding] = []
    for split in splits:
        opened: list[Dataset] = []

        def opens(split: str = split, opened: list[Dataset] = opened) -> None:
            dataset = make(split, data_root)
            if not isinstance(dataset, Dataset):
                raise NotKept(f"it is a {type(dataset).__name__}, no bench.api.Dataset")
            opened.append(dataset)

        findings.append(found(f"{split}: it opens", opens))
        for dataset in opened:
            promises: Mapping[str, Callable[[Dataset], None]] = {
                "an id, a label and a class for every image": _rows,
                "what it declares is true": _declared,
                "pixels are uint8, in the order that is asked for, and a copy": _pixels,
                "opened again it is the same": lambda first: _again(first, make, data_root),
            }
            findings += [
                found(f"{split}: {promise}", partial(check, dataset))
                for promise, check in promises.items()
            ]
    return findings


def _rows(dataset: Dataset) -> None:
    count = len(dataset.ids)
    if not count:
        raise NotKept("it has no images")
    twice = [name for name in set(dataset.ids) if not isinstance(name, str) or not name]
    if twice or len(set(dataset.ids)) != count:
        raise NotKept("ids are texts, none of them empty, and no two images share one")
    labels = np.asarray(dataset.label_array)
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise NotKept(
            f"label_array is {labels.dtype} of shape {labels.shape}, expected ({count},) int64"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(dataset.classes):
        raise NotKept(
            f"labels lie between {labels.min()} and {labels.max()}, there are "
            f"{len(dataset.classes)} classes"
        )


def _declared(dataset: Dataset) -> None:
    kind: Any = type(dataset)
    sizes: Mapping[str, int] = kind.sizes
    if sizes and sizes.get(dataset.split) != len(dataset):
        raise NotKept(
            f"sizes says {sizes.get(dataset.split)} for {dataset.split!r}, there are {len(dataset)}"
        )
    shape = getattr(kind, "image_shape", None)
    if isinstance(shape, tuple) and tuple(dataset.image_shape) != shape:
        raise NotKept(f"image_shape is {dataset.image_shape}, the class says {shape}")
    if not str(dataset.name).strip() or ":" in dataset.name:
        raise NotKept(f"name is {dataset.name!r}; it stands before the colon in a plan")


def _pixels(dataset: Dataset) -> None:
    places = sorted({*range(min(LOOKED_AT, len(dataset))), len(dataset) - 1})
    pixels = dataset.pixels(places)
    expected = (len(places), *dataset.image_shape)
    if pixels.dtype != np.uint8 or pixels.shape != expected:
        raise NotKept(
            f"pixels are {pixels.dtype} of shape {pixels.shape}, expected {expected} uint8"
        )
    if not np.array_equal(dataset.pixels(places[::-1]), pixels[::-1]):
        raise NotKept("pixels(indices) does not follow the order of the indices")
    pixels[:] = 255 - pixels
    if np.array_equal(dataset.pixels(places), pixels):
        raise NotKept("pixels returns its own memory: who writes into it changes the data set")


def _again(first: Dataset, make: Callable[[str, Path | None], Dataset], root: Path | None) -> None:
    again = make(first.split, root)
    chosen = subset(first, min(LOOKED_AT, len(first)))
    if again.ids != first.ids or subset_digest(again, chosen) != subset_digest(first, chosen):
        raise NotKept("ids, labels or pixels differ when it is opened again")
