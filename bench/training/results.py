"""What a training leaves in the manifest and beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, equal

from bench import weights
from bench.contracts.dataset import Dataset
from bench.contracts.target import Target
from bench.datasets.base import classes_digest
from bench.errors import PlanError, WeightsError
from bench.training.checkpoint import read_training
from bench.training.evaluate import Measured
from bench.training.settings import Training, differing
from bench.weights.entry import Entry
from bench.weights.parts import WeightsPart


def is_finished(name: str, training: Training, folder: Path) -> bool:
    """Whether a folder holds whole weights of this name, made by this very training."""
    entry = weights.read_manifest(folder).get(name)
    made = entry.more.get("training") if entry is not None else None
    if entry is None or not isinstance(made, Mapping) or differing(made, training.document()):
        return False
    try:
        weights.check_files(entry)
    except WeightsError:
        return False
    return True


def check_replaced(name: str, training: Training, folder: Path, checkpoint: Path) -> None:
    """Refuse to train where whole weights of that name would be lost: made by a training with other
    settings, or imported. A checkpoint of this very training goes on: whoever began it knew.

    Raises:
        PlanError: naming the settings that differ.
    """
    entry = weights.read_manifest(folder).get(name)
    if entry is None or _is_same(checkpoint, training):
        return
    try:
        weights.check_files(entry)
    except WeightsError:
        return
    made, now = entry.more.get("training"), training.document()
    how = "were not made by this recipe"
    if isinstance(made, Mapping):
        changes = [
            f"{key} = {made.get(key)!r}, now {now.get(key)!r}" for key in differing(made, now)
        ]
        how = f"were trained otherwise ({'; '.join(changes[:4])})"
    raise PlanError(
        f"weights {name!r} in {folder} {how}, and would be replaced",
        hint="--as NAME trains others beside them, --fresh trains in their place",
    )


def twin_name(training: Training, dataset: str) -> str:
    """The name of the weights of the static network that this one's accuracy is compared with."""
    return f"{training.stage.twin_name()}@{dataset}"


def manifest_values(
    training: Training,
    measured: Measured,
    data: Dataset,
    test: Dataset,
    seconds: float,
    before: Entry | None,
    folder: Path,
) -> dict[str, Any]:
    """The manifest's table for freshly trained weights.

    Args:
        training: that made them.
        measured: on the test images.
        data: that they were trained on.
        test: that they were measured on.
        seconds: that the training took.
        before: the weights that it started from, if any.
        folder: of the user's weights, where the static twin may be.
    """
    stage = training.stage
    where, classes = place(test, len(test)), classes_digest(data.classes)
    twin = {**weights.entries(), **weights.read_manifest(folder)}.get(
        twin_name(training, data.name)
    )
    if twin is not None and not _is_comparable(twin, where, classes):
        twin = None
    is_twin = stage.weights_name(training.stage_name) == stage.twin_name()
    return {
        "target": stage.target_name,
        "params": {**stage.target_params(), "num_classes": len(data.classes)},
        "licence": "MIT",
        "dataset": data.name,
        "classes_sha256": classes,
        "recipe": training.recipe,
        "stage": training.stage_name,
        "seed": training.seed,
        "static_accuracy": measured.accuracy if is_twin else twin and twin.accuracy,
        "epochs": stage.epochs,
        "seconds": round(seconds, 1),
        "started_from": before.name if before else None,
        **measured_values(measured, where),
        "training": training.document(),
    }


def place(data: Dataset, count: int) -> str:
    """What was measured on, in words: the data set and how many of its images."""
    return f"{data} ({count} image{'s' if count != 1 else ''})"


def _is_same(checkpoint: Path, training: Training) -> bool:
    """Whether a checkpoint is there, and of this training."""
    then = read_training(checkpoint) if checkpoint.exists() else None
    return then is not None and not differing(then, training.document())


def _is_comparable(twin: Entry, where: str, classes: str) -> bool:
    """Whether a network was measured on these images and trained on these classes, as far as it
    says."""
    said = {"measured_on": where, "classes_sha256": classes}
    return all(twin.more.get(name, value) == value for name, value in said.items())


def untouched(
    parts: Sequence[WeightsPart], start: Mapping[str, Tensor], target: Target
) -> list[WeightsPart]:
    """The parts of the weights that a training started from which it left as they were.

    Args:
        parts: that lie elsewhere.
        start: all tensors that it started from.
        target: as trained.
    """
    trained = target.state_dict()

    def stays(part: WeightsPart) -> bool:
        names = [name for name in trained if name.startswith(part.prefix)]
        return bool(names) and all(
            name in start and equal(trained[name], start[name].to(trained[name])) for name in names
        )

    return [part for part in parts if stays(part)]


def measured_values(measured: Measured, where: str) -> dict[str, Any]:
    """What a measurement adds to the manifest's table.

    Args:
        measured: on clean images.
        where: in words.
    """
    return {
        "accuracy": measured.accuracy,
        "clean_saving": measured.clean_saving,
        "spread": measured.spread,
        "ceiling": measured.ceiling,
        "gates_varying": measured.gates_varying,
        "opening_rates": list(measured.opening_rates),
        "measured_on": where,
    }


def record(history: Sequence[Mapping[str, float]], measured: Measured) -> dict[str, Any]:
    """What goes beside the manifest, as `bench.weights.read_record` returns it.

    Args:
        history: of each epoch, the means of what was shown.
        measured: on the test images.
    """
    names = list(history[0]) if history else []
    curves = {name: [round(float(means[name]), 5) for means in history] for name in names}
    return {
        "curves": curves,
        "rates": list(measured.rates),
        "owners": [list(owner) for owner in measured.owners],
    }
