"""The training loop that all recipes share: data, schedule, checkpoints.

A recipe brings stages; a stage brings settings, a network and a loss. What is random depends on the
seed and the epoch alone, and a checkpoint is written after every epoch and every few minutes, so a
training that was killed goes on and ends in the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bench.contracts.dataset import Dataset, Part
from bench.contracts.recipe import Moment, Schedule, Stage
from bench.contracts.target import Target
from bench.datasets.base import split_off
from bench.errors import WeightsError
from bench.files.canonical import seed_of
from bench.files.writing import make_folder
from bench.store.provenance import resolve_devices
from bench.training.augment import augment
from bench.training.checkpoint import Progress, load_start, restore, save
from bench.training.settings import Epoch, Trained, Training, Watch

_AHEAD = 50
"""Images whose features are computed at a time."""
CHECKPOINT_SECONDS = 300.0
"""Seconds of training that a crash within an epoch may lose."""


def pick_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA where there is one, then Apple's, then the CPU.

    Raises:
        PlanError: as `resolve_devices`.
    """
    if name != "auto":
        return resolve_devices(name)[0]
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def train(
    training: Training,
    data: Dataset,
    checkpoint: Path,
    *,
    start: Mapping[str, Tensor] | None = None,
    teacher: Target | None = None,
    device: torch.device,
    watch: Watch | None = None,
    every: float = CHECKPOINT_SECONDS,
    clock: Callable[[], float] = time.monotonic,
) -> Trained:
    """Train to the end, going on from `checkpoint` if it is there.

    Args:
        training: what to train.
        data: the training split.
        checkpoint: the file written after every epoch, and within one after `every` seconds.
        start: weights to start from; entries that the network has and these have not keep their
            fresh values.
        teacher: a network that the loss may look at, frozen.
        device: where to compute.
        watch: whom to tell.
        every: seconds of training after which a checkpoint is written between two steps.
        clock: seconds, only ever growing.

    Raises:
        RunFolderError: the checkpoint belongs to a training with other settings.
        WeightsError: the checkpoint is damaged, `start` is of another network, or the loss is no
            longer finite.
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
    optimizer = _optimizer(stage, target)
    progress = Progress()
    if checkpoint.exists():
        progress = restore(checkpoint, training, target, optimizer, watch)
    seen, held = split_off(data, stage.held_out, training.images)
    ready = _features(stage, seen, target, device, watch)
    if teacher is not None:
        teacher = teacher.to(device).eval().requires_grad_(False)
    loop = _Loop(
        training, seen, target, teacher, optimizer, device, watch, checkpoint, every, clock, ready
    )
    while len(progress.history) < stage.epochs:
        loop.run_epoch(progress)
    target = target.to("cpu", memory_format=torch.contiguous_format).eval()
    stage.finish(target, held)
    return Trained(target.eval(), progress.seconds, tuple(progress.history))


@dataclass
class _Loop:
    """A training under way: all that its epochs have in common."""

    training: Training
    data: Part
    target: Target
    teacher: Target | None
    optimizer: torch.optim.Optimizer
    device: torch.device
    watch: Watch
    checkpoint: Path
    every: float
    clock: Callable[[], float]
    features: Tensor | None = None

    def run_epoch(self, progress: Progress) -> None:
        """Train for the rest of an epoch, and write a checkpoint.

        Raises:
            WeightsError: the mean loss is not finite.
        """
        stage, history = self.training.stage, tuple(progress.history)
        epoch, steps = len(history), math.ceil(len(self.data) / stage.batch)
        resumed = _copied(self.target) if progress.step else None
        stage.begin_epoch(self.target, history)
        if resumed is not None:  # what the beginning of the epoch changed lies behind
            self.target.load_state_dict(resumed)
        generator = _generator(self.training.seed, epoch)
        order = torch.randperm(len(self.data), generator=generator)
        if progress.generator is not None:
            generator.set_state(progress.generator)
        began = saved = self.clock()
        for step, rows in enumerate(order.split(stage.batch)):
            if step < progress.step:
                continue
            torch.manual_seed(seed_of(self.training.seed, epoch, step))  # what dropout draws from
            done = (epoch * steps + step) / (steps * stage.epochs)
            moment = Moment(done, generator, history, self.teacher)
            for name, value in self._take_step(rows, moment).items():
                progress.sums[name] = progress.sums.get(name, 0.0) + value
            progress.step = step + 1
            now = self.clock()
            if now - saved >= self.every and progress.step < steps:
                progress.seconds += now - began
                progress.generator = generator.get_state()
                self._save(progress)
                began = saved = now
            self.watch.step(epoch * steps + step + 1, steps * stage.epochs)
            self.watch.within(self._shown(progress, steps, self.clock() - began))
        ended = self._shown(progress, steps, self.clock() - began)
        progress.history.append(dict(ended.means))
        stage.end_epoch(self.target, tuple(progress.history))
        progress.seconds += self.clock() - began
        progress.step, progress.sums, progress.generator = 0, {}, None
        if not math.isfinite(ended.means["loss"]):
            raise WeightsError(
                f"the loss is not finite in epoch {epoch + 1}",
                hint="try a smaller --set lr=…, or --precision fp32",
            )
        self._save(progress)
        self.watch.epoch(replace(ended, seconds=progress.seconds))

    def _take_step(self, rows: Tensor, moment: Moment) -> dict[str, float]:
        """One step on the images `rows`; what is worth showing of it, the loss first."""
        stage = self.training.stage
        for group in self.optimizer.param_groups:
            rate = learning_rate(stage.schedule, moment.done)
            group["lr"] = stage.lr * group.get("scale", 1.0) * rate
        if self.features is not None:
            images = self.features[rows].to(self.device)
        else:
            drawn = augment(
                self.data.images(rows.tolist()), moment.generator, flip=self.data.flip_allowed
            )
            images = drawn.to(self.device).contiguous(memory_format=torch.channels_last)
        labels = self.data.labels[rows].to(self.device)
        half = self.training.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            loss, shown = stage.loss(self.target, images, labels, moment)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {name: float(value) for name, value in {"loss": loss.detach(), **shown}.items()}

    def _shown(self, progress: Progress, steps: int, seconds: float) -> Epoch:
        """The epoch so far, `seconds` after what `progress` counts."""
        means = {name: value / progress.step for name, value in progress.sums.items()}
        return Epoch(
            len(progress.history) + 1,
            self.training.stage.epochs,
            means,
            progress.seconds + seconds,
            progress.step,
            steps,
        )

    def _save(self, progress: Progress) -> None:
        save(self.checkpoint, self.training, progress, self.target, self.optimizer)


def _features(
    stage: Stage, data: Part, target: Target, device: torch.device, watch: Watch
) -> Tensor | None:
    """What a stage computes ahead of every training image, (N, D) on the CPU; None for nothing."""

    def images(rows: range) -> Tensor:
        return (data.images(rows).to(torch.float32) / 255).to(device)

    was_training = target.training
    target.eval()
    found: list[Tensor] = []
    with torch.no_grad():
        if stage.features(target, images(range(1))) is not None:
            watch.note(f"computing features of {len(data)} images once")
            faster = target.equivalent().eval()
            for start in range(0, len(data), _AHEAD):
                made = stage.features(faster, images(range(start, min(start + _AHEAD, len(data)))))
                assert made is not None
                found.append(made.to("cpu", torch.float32))
    target.train(was_training)
    return torch.cat(found) if found else None


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


def _optimizer(stage: Stage, target: Target) -> torch.optim.Optimizer:
    groups = stage.groups(target)
    if stage.optimiser == "sgd":
        return torch.optim.SGD(
            groups, lr=stage.lr, momentum=0.9, nesterov=True, weight_decay=stage.weight_decay
        )
    return torch.optim.AdamW(groups, lr=stage.lr, weight_decay=stage.weight_decay)


def _copied(target: Target) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in target.state_dict().items()}
