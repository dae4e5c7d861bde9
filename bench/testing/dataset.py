"""Contract tests of data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.contracts.dataset import Dataset
from bench.datasets.base import subset, subset_digest
from bench.datasets.promises import LOOKED_AT, check_declared, check_pixels, check_rows
from bench.testing.findings import Finding, NotKept, found


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
                "what it declares is true": check_declared,
                "pixels are uint8, in the order that is asked for, and a copy": check_pixels,
                "opened again it is the same": lambda first: _again(first, make, data_root),
            }
            findings += [
                found(f"{split}: {promise}", partial(check, dataset))
                for promise, check in promises.items()
            ]
    return findings


def _again(first: Dataset, make: Callable[[str, Path | None], Dataset], root: Path | None) -> None:
    again = make(first.split, root)
    chosen = subset(first, min(LOOKED_AT, len(first)))
    if again.ids != first.ids or subset_digest(again, chosen) != subset_digest(first, chosen):
        raise NotKept("ids, labels or pixels differ when it is opened again")
