"""The training loop that all recipes share: data, schedule, checkpoints.

A recipe brings stages; a stage brings settings, a network and a loss. What is random depends on the seed and the epoch
alone, and a checkpoint is written after every epoch, so a training that was killed goes on and ends in the same bits.
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Target
from bench.atomic import write_atomic
from bench.data import Dataset, Part, split_off
from bench.errors import DiskError, PlanError, RunFolderError, WeightsError

Schedule = Literal["one-cycle", "step", "constant"]


@dataclass(frozen=True)
class Moment:
    """Where a training stands when a loss is asked for.

    Attributes:
        done: the share of the training that lies behind, in [0,1).
        generator: on the CPU; the only source of randomness.
        history: of each epoch so far, the means of what the stage showed.
    """

    done: float
    generator: torch.Generator
    history: Sequence[Mapping[str, float]] = ()


class Stage(Protocol):
    """A frozen dataclass of settings, read from its fields, with a loss: one link of a recipe's chain.

    Attributes:
        start: the stage whose weights it starts from unless told otherwise; "" for random weights.
        target_name: the name under which the trained network is found in a plan.
    """

    start: ClassVar[str]
    target_name: ClassVar[str]

    @property
    def epochs(self) -> int: ...
    @property
    def batch(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def schedule(self) -> Schedule: ...
    @property
    def optimiser(self) -> Literal["adamw", "sgd"]: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def held_out(self) -> float:
        """The share of the training images that no step sees; `finish` may look at them."""

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""

    def build(self, classes: int) -> Target:
        """The network to train, with fresh weights drawn from torch's global generator."""

    def adopt(self, start: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights it starts from, under the names that this network has for them."""

    def begin(self, target: Target) -> None:
        """Called once on the weights it starts from, before the first step."""

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """The optimiser's groups: "params", and where they differ "scale" (on the learning rate) and "weight_decay"."""

    def begin_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Called before each epoch with the means of those before: what is in training mode and what is not."""

    def loss(self, target: Target, images: Tensor, labels: Tensor, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of images in [0,1], and what is worth showing: name -> number."""

    def end_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Called after each epoch; its own means are the last of `history`."""

    def finish(self, target: Target, held: Part) -> None:
        """Called once on the trained network, on the CPU in evaluation mode, with the images that were held out, if any."""

    def weights_name(self, stage: str) -> str:
        """The name of the weights, without the data set."""

    def twin_name(self) -> str:
        """The name of the weights, without the data set, of the network whose accuracy this one's is held against."""


class Recipe(Protocol):
    """A chain of stages; what an entry point of the group `gatebench.recipes` names."""

    stages: ClassVar[Mapping[str, type[Stage]]]


@dataclass(frozen=True)
class Training:
    """All that decides the result of a training.

    Attributes:
        recipe, stage_name, stage: what is trained, with its settings.
        dataset: without the split.
        seed: of the initialisation, the order of the images, their crops and whatever the loss draws.
        precision: "bf16" trains under autocast, "fp32" does not; evaluation is always float32.
        start: sha256 of the weights that it starts from, "" for random ones.
    """

    recipe: str
    stage_name: str
    stage: Stage
    dataset: str
    seed: int = 0
    precision: Literal["bf16", "fp32"] = "bf16"
    start: str = ""

    def document(self) -> dict[str, Any]:
        """The same as plain values, for comparing with a checkpoint's."""
        settings = asdict(self.stage)  # type: ignore[call-overload]
        plain = {name: getattr(self, name) for name in ("recipe", "stage_name", "dataset", "seed", "precision", "start")}
        return {**plain, **settings}


@dataclass(frozen=True)
class Epoch:
    """What is shown after an epoch: its number from 1, the means over its steps, and the seconds of training so far."""

    number: int
    of: int
    means: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Watch:
    """Whom to tell: `step` after every step with (steps done, steps in all), `epoch` after every epoch, `note` in words."""

    step: Callable[[int, int], None] = field(default=lambda done, total: None)
    epoch: Callable[[Epoch], None] = field(default=lambda epoch: None)
    note: Callable[[str], None] = field(default=lambda text: None)


@dataclass(frozen=True)
class Trained:
    """What a training leaves.

    Attributes:
        target: in evaluation mode, on the CPU.
        seconds: of training, over all attempts.
        history: of each epoch, the means over its steps of the loss and of what the stage showed.
    """

    target: Target
    seconds: float
    history: tuple[Mapping[str, float], ...]


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
            raise PlanError(f"--device {name}: {str(error).splitlines()[0]}", hint="auto takes what there is") from error
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
    _make_folder(checkpoint.parent)
    torch.manual_seed(training.seed)
    target = stage.build(len(data.classes))
    if start is not None:
        _load_start(target, stage.adopt(start))
    stage.begin(target)
    target = target.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = _optimiser(stage, target)
    history: list[Mapping[str, float]] = []
    seconds = 0.0
    if checkpoint.exists():
        history, seconds = _restore(checkpoint, training, target, optimiser, watch)
    seen, held = split_off(data, stage.held_out)
    for epoch in range(len(history), stage.epochs):
        began = time.monotonic()
        stage.begin_epoch(target, tuple(history))
        means = _run_epoch(training, seen, target, optimiser, tuple(history), device, watch)
        history.append(means)
        stage.end_epoch(target, tuple(history))
        seconds += time.monotonic() - began
        if not math.isfinite(means["loss"]):
            raise WeightsError(f"the loss is not finite in epoch {epoch + 1}", hint="try a smaller --set lr=…, or --precision fp32")
        _save(checkpoint, training, history, seconds, target, optimiser)
        watch.epoch(Epoch(epoch + 1, stage.epochs, means, seconds))
    target = target.to("cpu", memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    stage.finish(target, held)
    return Trained(target, seconds, tuple(history))


def augment(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Random crops of the zero-padded images, mirrored half of the time where that is allowed, as floats in [0,1].

    Args:
        images: (N, C, H, W) uint8; padded by H/8 on each side (4 at 32 pixels).
        generator: on the CPU.
        flip: whether a mirrored image keeps its class.
    """
    count, _, height, width = images.shape
    pad = height // 8
    corner = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    y, x = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        x = torch.where(mirrored, x.flip(1), x)
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    cut = padded[torch.arange(count)[:, None, None], y[:, :, None], x[:, None, :]]
    return cut.permute(0, 3, 1, 2).to(torch.float32) / 255


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
    number = int.from_bytes(sha256(f"{seed}\n{epoch}".encode()).digest()[:8], "big") >> 1
    return torch.Generator().manual_seed(number)


def _optimiser(stage: Stage, target: Target) -> torch.optim.Optimizer:
    groups = stage.groups(target)
    if stage.optimiser == "sgd":
        return torch.optim.SGD(groups, lr=stage.lr, momentum=0.9, nesterov=True, weight_decay=stage.weight_decay)
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
            group["lr"] = stage.lr * group.get("scale", 1.0) * learning_rate(stage.schedule, moment.done)
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


def _load_start(target: Target, start: Mapping[str, Tensor]) -> None:
    own = target.state_dict()
    problems = [f"unexpected: {name}" for name in start if name not in own]
    problems += [f"misshapen: {name}" for name, value in start.items() if name in own and own[name].shape != value.shape]
    if problems:
        raise WeightsError("the weights to start from are of another network\n  " + "\n  ".join(problems))
    target.load_state_dict({**own, **start})


def _environment(target: Target) -> dict[str, Any]:
    """What bit-for-bit equality needs beside the settings."""
    device = next(target.parameters()).device
    return {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device.type}


def _make_folder(folder: Path) -> None:
    """Before the first step rather than after an epoch."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make {folder}: {error.strerror}", hint="--out names another folder") from error


def _save(
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
        "environment": json.dumps(_environment(target), sort_keys=True),
        "history": json.dumps(history),
        "seconds": seconds,
        "target": target.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    torch.save(content, buffer)
    _make_folder(path.parent)  # another training that ended may have cleared it away
    write_atomic(path, buffer.getvalue())


def _restore(
    path: Path, training: Training, target: Target, optimiser: torch.optim.Optimizer, watch: Watch
) -> tuple[list[Mapping[str, float]], float]:
    """(the means of the epochs done, seconds spent) of the checkpoint, after loading it."""
    try:
        content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True, map_location="cpu")
        then, now = json.loads(content["training"]), json.loads(json.dumps(training.document()))
        environment, history = json.loads(content["environment"]), json.loads(content["history"])
    except Exception as error:  # a damaged file fails in many ways, all of them meaning the same
        raise WeightsError(f"{path} is no whole checkpoint: {error}", hint="--fresh starts this training anew") from error
    changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
    if changed:
        told = "\n".join(f"  {name}: {then.get(name)!r} there, {now.get(name)!r} now" for name in changed)
        raise RunFolderError(f"{path} belongs to a training with other settings\n{told}", hint="--fresh starts this training anew")
    target.load_state_dict(content["target"])
    optimiser.load_state_dict(content["optimiser"])
    watch.note(f"going on after epoch {len(history)}")
    here = _environment(target)
    other = [f"{name} {environment.get(name)} -> {value}" for name, value in here.items() if environment.get(name) != value]
    if other:
        watch.note(f"not bit for bit the same as without the interruption: {', '.join(other)}")
    return history, content["seconds"]
