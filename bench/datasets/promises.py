"""What every data set keeps to, whoever wrote it: held against it whenever one is opened."""

from __future__ import annotations

from bench.contracts.dataset import Dataset
from bench.errors import ContractBroken, DataError


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
        raise ContractBroken(f"{name} does not set {', '.join(missing)}")
    _check_words(dataset, name)
    count = len(dataset.ids)
    if not count:
        raise DataError(f"{dataset} has no images")
    known = set(dataset.ids)
    if not all(isinstance(one, str) and one for one in known) or len(known) != count:
        raise ContractBroken(
            f"{name}: ids are texts, none of them empty, and no two images share one"
        )
    labels = np.asarray(dataset.label_array)
    if labels.shape != (count,) or labels.dtype != np.int64:
        raise ContractBroken(
            f"{name}: label_array is {labels.dtype} of shape {labels.shape}, "
            f"expected ({count},) int64"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(dataset.classes):
        raise ContractBroken(
            f"{name}: labels lie between {labels.min()} and {labels.max()}, there are "
            f"{len(dataset.classes)} classes",
            hint="labels are places in `classes`, from 0 on",
        )


_SET = ("name", "split", "classes", "ids", "label_array", "image_shape")


def _check_words(dataset: Dataset, name: str) -> None:
    """Refuse a name, classes or a shape that mean nothing."""
    if not isinstance(dataset.name, str) or not dataset.name.strip() or ":" in dataset.name:
        raise ContractBroken(
            f"{name}: name is {dataset.name!r}; it stands before the colon in a plan"
        )
    shape = tuple(dataset.image_shape)
    if len(shape) != 3 or not all(isinstance(side, int) and side > 0 for side in shape):
        raise ContractBroken(f"{name}: image_shape is {dataset.image_shape!r}, expected (3, H, W)")
    if not all(isinstance(one, str) for one in dataset.classes):
        raise ContractBroken(f"{name}: classes are texts, got {tuple(dataset.classes)[:4]!r}")
