"""What a recipe is: a chain of training stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from bench.contracts.dataset import Part
from bench.contracts.target import Target

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

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
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
