"""Contract tests of data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts.dataset import Dataset, checked_pixels
from bench.datasets.base import subset, subset_digest
from bench.datasets.promises import check_rows
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
                "an id, a label and a class for every image": check_rows,
                "what it declares is true": _declared,
                "pixels are uint8, in the order that is asked for, and a copy": _pixels,
                "opened again it is the same": lambda first: _again(first, make, data_root),
            }
            findings += [
                found(f"{split}: {promise}", partial(check, dataset))
                for promise, check in promises.items()
            ]
    return findings


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


def _pixels(dataset: Dataset) -> None:
    places = sorted({*range(min(LOOKED_AT, len(dataset))), len(dataset) - 1})
    pixels = checked_pixels(dataset, places)
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
