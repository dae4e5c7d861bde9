"""What a training needs before it begins: images, weights to start from, a precision."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench import weights
from bench.contracts.dataset import Dataset, PixelDataset
from bench.contracts.recipe import Stage
from bench.datasets import base
from bench.errors import DataError, UnknownName, WeightsError
from bench.plugins import registry
from bench.weights.entry import Entry

if TYPE_CHECKING:
    from torch import Tensor

_COMPARED = 8
"""Images of one name that are compared where a data set is too large to be compared whole."""


def open_splits(name: str, data_root: Path | None) -> tuple[Dataset, Dataset]:
    """The images to train on, and those to measure on.

    Args:
        name: of the data set, without a split.
        data_root: the folder that it lies in.

    Returns:
        (the split "train", the split "test", or "val" where there is no "test").

    Raises:
        DataError: a split is not there, or the classes of the two differ.
        PlanError: the two are the same images, pixel by pixel.
    """
    data = base.open_dataset(f"{name}:train", data_root)
    splits = [split for split in ("test", "val") if split in type(data).splits]
    if not splits:
        raise DataError(f"{name} has no split 'test' or 'val' to measure the trained network on")
    test = _first_there(name, splits, data_root)
    if data.classes != test.classes:
        raise DataError(f"{data} and {test} have other classes, or in another order")
    if isinstance(data, PixelDataset) and isinstance(test, PixelDataset):
        mine, theirs = list(range(len(data))), list(range(len(test)))
        few = len(test) // 100  # published data sets repeat a handful of their images
    else:
        place = {one: index for index, one in enumerate(data.ids)}
        theirs = [index for index, one in enumerate(test.ids) if one in place][:_COMPARED]
        mine, few = [place[test.ids[index]] for index in theirs], 0
    base.check_disjoint(data, mine, test, theirs, f"{data} and {test}", allowed=few)
    return data, test


def find_start(
    stage: Stage,
    start: str | None,
    dataset: str,
    folder: Path,
    recipe: str,
) -> tuple[Entry | None, dict[str, Tensor] | None]:
    """The weights that a stage starts from.

    Args:
        stage: to be trained.
        start: the name of the weights; None takes the stage's own predecessor's.
        dataset: that it is trained on.
        folder: of the user's weights, looked into first.
        recipe: of the stage, for the message.

    Returns:
        (their entry, their tensors); Nones where the stage starts from random weights.

    Raises:
        WeightsError: they are not there, or damaged; says which command makes them.
    """
    if start is None and not stage.start:
        return None, None
    wanted = start or f"{stage.weights_name(stage.start)}@{dataset}"
    try:
        entry = weights.read_manifest(folder).get(wanted) or weights.find(wanted)
    except UnknownName as error:
        if start is not None:
            raise
        raise WeightsError(
            f"{wanted}, which this stage starts from, is not there",
            hint=f"first 'gatebench train {recipe} --stage {stage.start} --dataset {dataset}', "
            "or name others with --from",
        ) from error
    return entry, _whole_state(entry)


def _whole_state(entry: Entry) -> dict[str, Tensor]:
    """All tensors of weights, parts that lie elsewhere included."""
    if not entry.parts:
        return weights.read_state(entry)
    network = registry.load("target", entry.target)(
        **{
            key: tuple(value) if isinstance(value, list) else value
            for key, value in entry.params.items()
        }
    )
    return weights.read_whole(entry, network)


def precision_before(name: str, checkpoint: Path, folder: Path) -> str | None:
    """The precision in which weights of this name were begun or finished, if they were."""
    from bench.training.checkpoint import read_training

    if checkpoint.exists():
        made = read_training(checkpoint)
    else:
        entry = weights.read_manifest(folder).get(name)
        made = entry.more.get("training") if entry is not None else None
    said = made.get("precision") if isinstance(made, Mapping) else None
    return said if isinstance(said, str) else None


def _first_there(name: str, splits: list[str], data_root: Path | None) -> Dataset:
    """The first of some splits that can be opened; an image folder may have one of two."""
    refusals: list[DataError] = []
    for split in splits:
        try:
            return base.open_dataset(f"{name}:{split}", data_root)
        except DataError as error:
            refusals.append(error)
    raise refusals[0]
