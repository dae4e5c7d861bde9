"""What a training needs before it begins: images, weights to start from, a precision."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench import weights
from bench.contracts.dataset import Dataset, PixelDataset
from bench.contracts.recipe import Stage
from bench.contracts.target import Target
from bench.datasets import base
from bench.datasets.folder import ImageFolder
from bench.errors import DataError, UnknownName, WeightsError
from bench.plugins import registry
from bench.plugins.parameters import as_arguments
from bench.weights.entry import Entry
from bench.weights.parts import WEIGHTS, WeightsPart

if TYPE_CHECKING:
    from torch import Tensor

_COMPARED = 8
"""Images of one name that are compared where a data set is too large to be compared whole."""
_MOST_FILES = 100_000
"""Files of two splits of which the beginnings are read."""


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
        mine, theirs = _suspects(data, test)
        few = 0
    base.check_disjoint(data, mine, test, theirs, f"{data} and {test}", allowed=few)
    return data, test


def _suspects(data: Dataset, test: Dataset) -> tuple[list[int], list[int]]:
    """(indices in `data`, indices in `test`) of a few images that may be the same.

    Those of one name; where both are folders of not too many files, also those whose files begin
    alike, if there are more than the handful that published data sets repeat.
    """
    place = {one: index for index, one in enumerate(data.ids)}
    pairs = [(place[one], index) for index, one in enumerate(test.ids) if one in place]
    pairs = pairs[:_COMPARED]
    if (
        isinstance(data, ImageFolder)
        and isinstance(test, ImageFolder)
        and len(data) + len(test) <= _MOST_FILES
    ):
        known = {head: index for index, head in enumerate(data.heads())}
        alike = [(known[head], index) for index, head in enumerate(test.heads()) if head in known]
        if len(alike) > len(test) // 100:
            pairs = list(dict.fromkeys([*pairs, *alike[:_COMPARED]]))
    return [one for one, _ in pairs], [other for _, other in pairs]


def images_digest(data: Dataset) -> str:
    """What tells the images of a training apart: 16 hex digits of a sha256 over classes, ids and
    labels; of image folders, whose ids are names, over the beginnings of the files too, if they are
    not too many.
    """
    rows = base.rows_digest(data)
    if not isinstance(data, ImageFolder) or len(data) > _MOST_FILES:
        return rows
    return hashlib.sha256(b"".join([rows.encode(), *data.heads()])).hexdigest()[:16]


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


def borrow(stage: Stage, classes: int, folder: Path) -> tuple[list[WeightsPart], dict[str, Tensor]]:
    """What a stage takes from other weights without training it.

    Args:
        stage: to be trained.
        classes: that its network tells apart.
        folder: of the user's weights, looked into first.

    Returns:
        (the parts, their tensors by the names that the network has for them).

    Raises:
        UnknownName, WeightsError: they are not there, damaged, or do not fit.
    """
    wanted = stage.borrowed()
    if not wanted:
        return [], {}
    expected = stage.build(classes).state_dict()
    parts: list[WeightsPart] = []
    tensors: dict[str, Tensor] = {}
    for prefix, name in wanted.items():
        entry = weights.read_manifest(folder).get(name) or weights.find(name)
        names = [key.removeprefix(prefix) for key in expected if key.startswith(prefix)]
        state = _whole_state(entry)
        inside = _inside(state, names, name, prefix)
        theirs = [part for part in entry.parts if part.prefix == inside]
        if entry.parts and not theirs:
            raise WeightsError(f"weights {name!r}: no part of them is all of {prefix!r}")
        part = (
            replace(theirs[0], prefix=prefix)
            if theirs
            else WeightsPart(
                prefix, f"{WEIGHTS}{name}", entry.digest, inside=inside, licence=entry.licence
            )
        )
        parts.append(part)
        tensors |= {f"{prefix}{key}": state[inside + key] for key in names}
    return parts, tensors


def _inside(state: Mapping[str, Tensor], names: Sequence[str], entry: str, prefix: str) -> str:
    """The prefix under which weights hold tensors of these names.

    Raises:
        WeightsError: there is none.
    """
    first = names[0] if names else ""
    if first and all(prefix + name in state for name in names):
        return prefix  # source and network call them the same
    for key in state:
        if first and key.endswith(first):
            inside = key.removesuffix(first)
            if all(inside + name in state for name in names):
                return inside
    raise WeightsError(f"weights {entry!r} hold no network that fits {prefix!r}")


def start_digest(before: Entry | None, borrowed: Sequence[WeightsPart]) -> str:
    """What vouches for everything that a training starts from; "" for random weights alone."""
    digests = [before.digest] if before else []
    digests += [part.sha256 for part in borrowed]
    if len(digests) < 2:
        return "".join(digests)
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _whole_state(entry: Entry) -> dict[str, Tensor]:
    """All tensors of weights, parts that lie elsewhere included."""
    if not entry.parts:
        return weights.read_state(entry)
    network = registry.load("target", entry.target)(**as_arguments(entry.params))
    return weights.read_whole(entry, network)


def find_teacher(stage: Stage, data: Dataset, folder: Path) -> tuple[Entry | None, Target | None]:
    """The network that a stage's setting `teacher` names, with its weights.

    Args:
        stage: to be trained.
        data: that it is trained on.
        folder: of the user's weights, looked into first.

    Returns:
        (the entry of the weights, the network); Nones where the stage has no such setting, or names
        none.

    Raises:
        UnknownName: there are no weights of that name.
        WeightsError: they are damaged, or were trained on other classes.
    """
    name: str = getattr(stage, "teacher", "")
    if not name:
        return None, None
    entry = weights.read_manifest(folder).get(name) or weights.find(name)
    network: Target = registry.load("target", entry.target)(**as_arguments(entry.params))
    if network.classes != len(data.classes):
        raise WeightsError(
            f"the teacher {name} tells {network.classes} classes apart, {data} has "
            f"{len(data.classes)}"
        )
    said = entry.more.get("classes_sha256")
    if said and said != base.classes_digest(data.classes):
        raise WeightsError(
            f"the teacher {name} tells other classes apart than {data} has, or in another order"
        )
    weights.load_entry(network, entry)
    return entry, network


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
