"""The training loop that all recipes share: data, schedule, checkpoints.

A recipe brings stages; a stage brings settings, a network and a loss. What is random depends on the seed and the epoch
alone, and a checkpoint is written after every epoch, so a training that was killed goes on and ends in the same bits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.contracts.target import Target
from bench.errors import DiskError, RunFolderError, WeightsError
from bench.files.atomic import write_atomic
from bench.training.settings import Training, Watch


def load_start(target: Target, start: Mapping[str, Tensor]) -> None:
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


def environment(target: Target) -> dict[str, Any]:
    """What bit-for-bit equality needs beside the settings."""
    device = next(target.parameters()).device
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device.type}


def make_folder(folder: Path) -> None:
    """Before the first step rather than after an epoch."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(
            f"cannot make {folder}: {error.strerror}", hint="--out names another folder"
        ) from error


def save(
    path: Path,
    training: Training,
    history: Sequence[Mapping[str, float]],
    seconds: float,
    target: Target,
    optimiser: torch.optim.Optimizer,
) -> None:
    buffer = io.BytesIO()
    content = {
        "training": json.dumps(training.document(), sort_keys=True),
        "environment": json.dumps(environment(target), sort_keys=True),
        "history": json.dumps(history),
        "seconds": seconds,
        "target": target.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    torch.save(content, buffer)
    make_folder(path.parent)  # another training that ended may have cleared it away
    write_atomic(path, buffer.getvalue())


def restore(
    path: Path, training: Training, target: Target, optimiser: torch.optim.Optimizer, watch: Watch
) -> tuple[list[Mapping[str, float]], float]:
    """(the means of the epochs done, seconds spent) of the checkpoint, after loading it."""
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
        then, now = json.loads(content["training"]), json.loads(json.dumps(training.document()))
        there, history = json.loads(content["environment"]), json.loads(content["history"])
    except Exception as error:  # a damaged file fails in many ways, all of them meaning the same
        raise WeightsError(
            f"{path} is no whole checkpoint: {error}", hint="--fresh starts this training anew"
        ) from error
    changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if changed:
        told = "\n".join(
            f"  {name}: {then.get(name)!r} there, {now.get(name)!r} now" for name in changed
        )
        raise RunFolderError(
            f"{path} belongs to a training with other settings\n{told}",
            hint="--fresh starts this training anew",
        )
    target.load_state_dict(content["target"])
    optimiser.load_state_dict(content["optimiser"])
    watch.note(f"going on after epoch {len(history)}")
    here = environment(target)
    other = [
        f"{name} {there.get(name)} -> {value}"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if other:
        watch.note(f"not bit for bit the same as without the interruption: {', '.join(other)}")
    return history, content["seconds"]
