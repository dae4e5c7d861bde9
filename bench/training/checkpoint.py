"""Checkpoints of a training, between any two steps, from which it goes on bit for bit."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contracts.target import Target
from bench.errors import RunFolderError, WeightsError
from bench.files.atomic import write_atomic
from bench.files.regular import ANY_SIZE, check_regular, read_regular
from bench.files.writing import make_folder
from bench.store.provenance import source_digest
from bench.training.settings import Training, Watch, differing
from bench.weights.archives import check_sums


@dataclass
class Progress:
    """How far a training is.

    Attributes:
        history: of each whole epoch, the means over its steps.
        seconds: of training so far.
        step: steps done in the epoch after those.
        sums: over those steps, of what is shown.
        generator: state of the epoch's random generator after those steps; None between epochs.
    """

    history: list[Mapping[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    generator: Tensor | None = None


def load_start(target: Target, start: Mapping[str, Tensor]) -> None:
    """Put weights to start from into a network; what they lack keeps its fresh values.

    Raises:
        WeightsError: they are of another network; lists every name.
    """
    own = target.state_dict()
    problems = [f"unexpected: {name}" for name in start if name not in own]
    problems += [
        f"misshapen: {name}"
        for name, value in start.items()
        if name in own and own[name].shape != value.shape
    ]
    if problems:
        raise WeightsError(
            "the weights to start from are of another network\n  " + "\n  ".join(problems)
        )
    target.load_state_dict({**own, **start})


def environment(training: Training, target: Target) -> dict[str, Any]:
    """What bit-for-bit equality needs beside the settings."""
    device = next(target.parameters()).device
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.type,
        "recipe": source_digest(type(training.stage).__module__),
        "network": source_digest(type(target).__module__),
    }


def save(
    path: Path,
    training: Training,
    progress: Progress,
    target: Target,
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write a checkpoint, whole or not at all.

    Args:
        path: of the file; its folder is made where it is not there.
        training: what is trained.
        progress: how far it is.
        target: with the weights of now.
        optimizer: with its state of now.

    Raises:
        DiskError: the disk refused.
    """
    buffer = io.BytesIO()
    content = {
        "training": json.dumps(training.document(), sort_keys=True),
        "environment": json.dumps(environment(training, target), sort_keys=True),
        "history": json.dumps(progress.history),
        "seconds": progress.seconds,
        "step": progress.step,
        "sums": json.dumps(progress.sums),
        "generator": progress.generator,
        "target": target.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, buffer)
    make_folder(path.parent)  # another training that ended may have cleared it away
    write_atomic(path, buffer.getvalue())


def read_training(path: Path) -> Mapping[str, Any] | None:
    """The settings that a checkpoint was made with (`Training.document`); None if damaged."""
    try:
        found = json.loads(_content(path)["training"])
    except WeightsError:
        return None
    return found if isinstance(found, dict) else None


def restore(
    path: Path,
    training: Training,
    target: Target,
    optimizer: torch.optim.Optimizer,
    watch: Watch,
) -> Progress:
    """Load a checkpoint into a network and its optimizer.

    Args:
        path: of the checkpoint.
        training: what is to be trained; the checkpoint must be of the same.
        target: gets the weights.
        optimizer: gets its state.
        watch: hears where the training goes on, and what keeps it from being bit for bit the same.

    Returns:
        How far the training was.

    Raises:
        WeightsError: the file is no whole checkpoint.
        RunFolderError: it belongs to a training with other settings.
    """
    content = _content(path)
    try:
        then, now = json.loads(content["training"]), json.loads(json.dumps(training.document()))
        made_in, history = json.loads(content["environment"]), json.loads(content["history"])
        generator = content["generator"]
        progress = Progress(
            history, content["seconds"], content["step"], json.loads(content["sums"]), generator
        )
        _check_progress(progress)
        if not isinstance(then, dict) or not isinstance(made_in, dict):
            raise TypeError("its settings are no table")
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, error) from error
    changed = differing(then, now)
    if changed:
        told = "\n".join(
            f"  {name}: {then.get(name)!r} there, {now.get(name)!r} now" for name in changed
        )
        raise RunFolderError(
            f"{path} belongs to a training with other settings\n{told}",
            hint="--fresh starts this training anew",
        )
    try:
        target.load_state_dict(content["target"])
        optimizer.load_state_dict(content["optimizer"])
        _check_optimizer(optimizer)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise _broken(path, error) from error
    place = f", step {progress.step} of the next" if progress.step else ""
    watch.note(f"going on after epoch {len(history)}{place}")
    other = [
        f"{name} {made_in.get(name)} -> {value}"
        for name, value in environment(training, target).items()
        if made_in.get(name, value) != value
    ]
    if other:
        watch.note(f"not bit for bit the same as without the interruption: {', '.join(other)}")
    return progress


def _check_progress(progress: Progress) -> None:
    """Refuse what is no progress of a training.

    Raises:
        TypeError, ValueError, RuntimeError: saying what is wrong.
    """
    if not isinstance(progress.history, list) or not isinstance(progress.sums, dict):
        raise TypeError("its history or its sums are of another kind")
    numbers = [*progress.sums.values(), progress.seconds]
    for epoch in progress.history:
        numbers += epoch.values()
    if not all(type(number) in (int, float) for number in numbers):
        raise TypeError("its history or its sums hold something else than numbers")
    if type(progress.step) is not int or progress.step < 0 or not progress.seconds >= 0:
        raise ValueError(f"it is at step {progress.step!r} after {progress.seconds!r} seconds")
    if progress.generator is not None:
        torch.Generator().set_state(progress.generator)


def _check_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a state of an optimizer whose tensors are not those of its parameters.

    Raises:
        ValueError: saying so.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim and value.shape != parameter.shape:
                raise ValueError(
                    f"{name} of the optimizer is {list(value.shape)}, its parameter "
                    f"{list(parameter.shape)}"
                )


def _content(path: Path) -> Mapping[str, Any]:
    try:
        check_regular(path)
        check_sums(path)  # torch does not look at them
        found = torch.load(
            io.BytesIO(read_regular(path, ANY_SIZE)), weights_only=True, map_location="cpu"
        )
    except Exception as error:  # a damaged file fails in many ways, all of them meaning the same
        raise _broken(path, error) from error
    if not isinstance(found, dict):
        raise _broken(path, TypeError(f"it holds a {type(found).__name__}"))
    return found


def _broken(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} is no whole checkpoint: {error}", hint="--fresh starts this training anew"
    )
