"""The training loop that all recipes share: data, schedule, checkpoints.

A recipe brings stages; a stage brings settings, a network and a loss. What is random depends on the seed and the epoch
alone, and a checkpoint is written after every epoch, so a training that was killed goes on and ends in the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from bench.contracts.dataset import Dataset, Part
from bench.contracts.recipe import Moment, Schedule, Stage
from bench.contracts.target import Target
from bench.datasets.base import split_off
from bench.errors import PlanError, WeightsError
from bench.files.canonical import seed_of
from bench.training.augment import augment
from bench.training.checkpoint import load_start, make_folder, restore, save
from bench.training.settings import Epoch, Trained, Training, Watch


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA where there is one, then Apple's, then the CPU.

    Raises:
        PlanError: torch knows no such device, or this machine has none.
    """
    if name != "auto":
        try:
            device = torch.device(name)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise PlanError(
                f"--device {name}: {str(error).splitlines()[0]}", hint="auto takes what there is"
            ) from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def train(
    training: Training,
    data: Dataset,
    checkpoint: Path,
    *,
    start: Mapping[str, Tensor] | None = None,
    device: torch.device,
    watch: Watch | None = None,
) -> Trained:
    """Train to the end, going on from `checkpoint` if it is there.

    Args:
        training: what to train.
        data: the training split.
        checkpoint: the file written after every epoch.
        start: weights to start from; entries that the network has and these have not keep their fresh values.
        device: where to compute.
        watch: whom to tell.

    Raises:
        RunFolderError: the checkpoint belongs to a training with other settings.
        WeightsError: the checkpoint is damaged, `start` is of another network, or the loss is no longer finite.
        DiskError: a checkpoint cannot be written.
    """
    watch = watch or Watch()
    stage = training.stage
    make_folder(checkpoint.parent)
    torch.manual_seed(training.seed)
    target = stage.build(len(data.classes))
    if start is not None:
        load_start(target, stage.adopt(start))
    stage.begin(target)
    target = target.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(stage, target)
    history: list[Mapping[str, float]] = []
    seconds = 0.0
    if checkpoint.exists():
        history, seconds = restore(checkpoint, training, target, optimiser, watch)
    seen, held = split_off(data, stage.held_out)
    for epoch in range(len(history), stage.epochs):
        began = time.monotonic()
        stage.begin_epoch(target, tuple(history))
        means = _run_epoch(training, seen, target, optimiser, tuple(history), device, watch)
        history.append(means)
        stage.end_epoch(target, tuple(history))
        seconds += time.monotonic() - began
        if not math.isfinite(means["loss"]):
            raise WeightsError(
                f"the loss is not finite in epoch {epoch + 1}",
                hint="try a smaller --set lr=…, or --precision fp32",
            )
        save(checkpoint, training, history, seconds, target, optimiser)
        watch.epoch(Epoch(epoch + 1, stage.epochs, means, seconds))
    target = target.to("cpu", memory_format=torch.contiguous_format).eval()
    stage.finish(target, held)
    return Trained(target, seconds, tuple(history))


def learning_rate(schedule: Schedule, done: float) -> float:
    """The factor on the highest learning rate when the share `done` of the training lies behind."""
    if schedule == "constant":
        return 1.0
    if schedule == "step":
        return 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
    rise = 0.3
    if done < rise:
        return _cosine(1 / 25, 1.0, done / rise)
    return _cosine(1.0, 1 / 250_000, (done - rise) / (1 - rise))


def _cosine(low: float, high: float, share: float) -> float:
    return high + (low - high) * (1 + math.cos(math.pi * share)) / 2


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(seed, epoch))


def _optimiser(stage: Stage, target: Target) -> torch.optim.Optimizer:
    groups = stage.groups(target)
    if stage.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=stage.lr, momentum=0.9, nesterov=True, weight_decay=stage.weight_decay
        )
    return torch.optim.AdamW(groups, lr=stage.lr, weight_decay=stage.weight_decay)


def _run_epoch(
    training: Training,
    data: Part,
    target: Target,
    optimiser: torch.optim.Optimizer,
    history: Sequence[Mapping[str, float]],
    device: torch.device,
    watch: Watch,
) -> dict[str, float]:
    """One pass over the data; the means of what the stage shows."""
    stage, epoch = training.stage, len(history)
    steps = math.ceil(len(data) / stage.batch)
    total = steps * stage.epochs
    generator = _generator(training.seed, epoch)
    order = torch.randperm(len(data), generator=generator)
    sums: dict[str, float] = {}
    for step, rows in enumerate(order.split(stage.batch)):
        moment = Moment((epoch * steps + step) / total, generator, history)
        for group in optimiser.param_groups:
            group["lr"] = (
                stage.lr * group.get("scale", 1.0) * learning_rate(stage.schedule, moment.done)
            )
        images = augment(data.images(rows.tolist()), generator, flip=data.flip_allowed)
        images = images.to(device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=training.precision == "bf16"):
            loss, shown = stage.loss(target, images, data.labels[rows].to(device), moment)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        for name, value in {"loss": loss.detach(), **shown}.items():
            sums[name] = sums.get(name, 0.0) + float(value)
        watch.step(epoch * steps + step + 1, total)
    return {name: value / steps for name, value in sums.items()}
