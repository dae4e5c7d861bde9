"""The training loop that all recipes share: data, schedule, checkpoints.

A recipe brings stages; a stage brings settings, a network and a loss. What is random depends on the seed and the epoch
alone, and a checkpoint is written after every epoch, so a training that was killed goes on and ends in the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from bench.contracts.recipe import Stage
from bench.contracts.target import Target


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
        plain = {
            name: getattr(self, name)
            for name in ("recipe", "stage_name", "dataset", "seed", "precision", "start")
        }
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
