"""What the stages of all recipes share: the settings of the optimiser, and what a stage does unless
it says otherwise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from bench.api import Moment, Part, Target
from bench.errors import PlanError

Metrics = dict[str, Tensor]
"""What is worth showing of a step: name -> number."""


@dataclass(frozen=True, kw_only=True)
class TrainingStage(ABC):
    """One link of a recipe's chain: settings, a network and a loss; the loop, the data and the
    checkpoints are the driver's.

    Attributes:
        epochs: passes over the training images.
        batch: images a step.
        lr: the highest learning rate.
        schedule: "one-cycle" rises for 30 % of the steps from lr/25 and falls to lr/250000 on
            cosines; "step" divides by 10 at one half and three quarters; "constant" does neither.
        optimiser: "adamw", or "sgd" with Nesterov momentum 0.9.
        weight_decay: of the optimiser.
        held_out: the share of the training images that no step sees.
    """

    epochs: int = 24
    batch: int = 128
    lr: float = 4e-3
    schedule: Literal["one-cycle", "step", "constant"] = "one-cycle"
    optimiser: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    held_out: float = 0.0

    start: ClassVar[str] = ""
    """The stage whose weights this one starts from unless told otherwise; "" starts from random
    weights."""
    target_name: ClassVar[str]
    """The name under which the trained network is found in a plan."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise PlanError(f"{name} = {getattr(self, name)}: must be above 0")
        if not 0 <= self.held_out <= 0.5:
            raise PlanError(
                f"held_out = {self.held_out}: a share of the training images, from 0 to 0.5"
            )

    @abstractmethod
    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""

    @abstractmethod
    def build(self, classes: int) -> Target:
        """The network to train, with fresh weights."""

    @abstractmethod
    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """The loss of a batch of images in [0,1], and what is worth showing."""

    @abstractmethod
    def weights_name(self, stage: str) -> str:
        """The name of the weights, without the data set; for stage "static" that of the static
        twin."""

    def twin_name(self) -> str:
        """The name of the static twin's weights, without the data set."""
        return self.weights_name("static")

    def adopt(self, start: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights it starts from, under the names that this network has for them: the same."""
        return start

    def borrowed(self) -> Mapping[str, str]:
        """Parts of the network that are not trained: prefix of their names -> weights."""
        return {}

    def features(self, target: Target, images: Tensor) -> Tensor | None:
        """What a frozen part of the network makes of images; None: nothing is computed ahead."""
        return None

    def begin(self, target: Target) -> None:  # noqa: B027 — most stages need none
        """Called once on the weights it starts from."""

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """The optimiser's groups of parameters: all in one."""
        return [{"params": list(target.parameters())}]

    def begin_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Called before each epoch."""
        target.train()

    def end_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:  # noqa: B027
        """Called after each epoch, whose means are the last of `history`."""

    def finish(self, target: Target, held: Part) -> None:  # noqa: B027
        """Called once on the trained network, with the images that were held out."""


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """The share of the batch that is classified rightly."""
    return (logits.detach().argmax(1) == labels).float().mean()
