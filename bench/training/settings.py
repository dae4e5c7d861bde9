"""What decides a training, and what is told of it while it runs and when it ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from bench.contracts.recipe import Stage
from bench.contracts.target import Target
from bench.training.precision import Precision

_NOT_ALWAYS = ("rows", "teacher_sha256")
"""What older trainings do not say."""


@dataclass(frozen=True)
class Training:
    """All that decides the result of a training.

    Attributes:
        recipe: its name.
        stage_name: the name of the stage in it.
        stage: what is trained, with its settings.
        dataset: without the split.
        seed: of the initialization, the order of the images, their crops and whatever the loss
            draws.
        precision: "bf16" trains under autocast, "fp32" does not; evaluation is always float32.
        images: how many training images, the first in the fixed order of `subset`; 0 for all.
        start: sha256 of the weights that it starts from, "" for random ones.
        rows: `bench.training.inputs.images_digest` of the training images, "" where nobody looked;
            many image folders share one name.
        teacher_sha256: of the weights of the stage's teacher, "" where it has none.
    """

    recipe: str
    stage_name: str
    stage: Stage
    dataset: str
    seed: int = 0
    precision: Precision = "fp32"
    start: str = ""
    images: int = 0
    rows: str = ""
    teacher_sha256: str = ""

    def document(self) -> dict[str, Any]:
        """The same as plain values, for comparing with a checkpoint's."""
        settings = asdict(self.stage)  # type: ignore[call-overload]
        plain = {
            name: getattr(self, name)
            for name in ("recipe", "stage_name", "dataset", "seed", "precision", "start")
        }
        given = {name: getattr(self, name) for name in ("images", *_NOT_ALWAYS)}
        return {**plain, **{name: value for name, value in given.items() if value}, **settings}


def differing(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings in which two trainings differ, by name.

    Args:
        then: as `Training.document` has them. Older ones do not say which images they saw, nor
            which teacher.
        now: as well.
    """
    unsaid = {name for name in _NOT_ALWAYS if name not in then or name not in now}
    names = {*then, *now} - unsaid
    return sorted(name for name in names if then.get(name) != now.get(name))


@dataclass(frozen=True)
class Epoch:
    """What is shown after an epoch, and during it.

    Attributes:
        number: of the epoch, from 1.
        of: epochs in all.
        means: over the steps of this epoch so far.
        seconds: of training so far, over all attempts.
        step: of this epoch, from 1.
        steps: of an epoch.
    """

    number: int
    of: int
    means: Mapping[str, float]
    seconds: float
    step: int
    steps: int


@dataclass(frozen=True)
class Watch:
    """Whom to tell.

    Attributes:
        step: after every step, with (steps done, steps in all).
        within: after every step, with the epoch so far.
        epoch: after every epoch.
        note: in words, what is worth knowing.
    """

    step: Callable[[int, int], None] = field(default=lambda done, total: None)
    within: Callable[[Epoch], None] = field(default=lambda epoch: None)
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
