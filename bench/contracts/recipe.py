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
"""How the learning rate moves: up and down once, by steps down, or not at all."""


@dataclass(frozen=True)
class Moment:
    """Where a training stands when a loss is asked for.

    Attributes:
        done: the share of the training that is done, in [0,1).
        generator: on the CPU; the only source of randomness.
        history: the means of what the stage showed, of each epoch so far.
        teacher: the frozen network that the stage's setting `teacher` names; None where it names
            none.
    """

    done: float
    generator: torch.Generator
    history: Sequence[Mapping[str, float]] = ()
    teacher: Target | None = None


class Stage(Protocol):
    """One link of a recipe's chain: a frozen dataclass of settings, with a loss.

    The fields of the dataclass are the options of `gatebench train RECIPE`. A field `teacher: str`
    names weights, whose network the loss finds in `Moment.teacher`; "" names none. Where a field
    `rounded: bool` is true, weights that `finish` rounded to half precision are stored as such.
    Every method is required; `targets.recipes.stage.TrainingStage` is a base class that has all
    but `build`, `loss`, `target_params` and `weights_name`.

    Attributes:
        start: the stage whose weights it starts from unless told otherwise; "" for random weights.
        target_name: the name under which a plan finds the trained network.
        epochs: passes over the training images.
        batch: images in a step.
        lr: the largest learning rate.
        schedule: how the learning rate moves during the training.
        optimiser: "adamw", or "sgd" with momentum 0.9.
        weight_decay: of the optimizer, unless a group says otherwise.
        held_out: the share of the training images, in [0,1), that no step sees; `finish` may look
            at them.
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
    def held_out(self) -> float: ...

    def target_params(self) -> dict[str, Any]:
        """The parameters under which a plan uses the trained network."""

    def build(self, classes: int) -> Target:
        """The network to train, with fresh weights drawn from torch's global generator.

        Args:
            classes: K, the number of classes.
        """

    def adopt(self, start: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights it starts from, under the names that this network has for them.

        Args:
            start: the state of the network that it starts from.
        """

    def borrowed(self) -> Mapping[str, str]:
        """Parts of the network that other weights bring and that no step changes.

        Returns:
            Prefix of the names in the network -> name of the weights; {} for none. The finished
            weights say where these lie, and do not hold them.
        """

    def features(self, target: Target, images: Tensor) -> Tensor | None:
        """What a frozen part of the network makes of images, computed once before the first step.

        Args:
            target: in evaluation mode.
            images: (N, C, H, W) in [0,1], without crops and mirror images.

        Returns:
            (N, D), which `loss` is given in place of the images; None for a stage that is given
            images, augmented anew in each epoch.
        """

    def begin(self, target: Target) -> None:
        """Called once on the weights that it starts from, before the first step."""

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """The optimizer's groups.

        Returns:
            For each group "params" and, where they differ, "scale" (a factor on the learning rate)
            and "weight_decay".
        """

    def begin_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Called before each epoch; sets what is in training mode and what is not.

        Args:
            target: in training.
            history: the means of each epoch so far.
        """

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch.

        Args:
            target: in training.
            images: (N, C, H, W) in [0,1], or (N, D) of `features`.
            labels: (N,) int64.
            moment: where the training stands.

        Returns:
            (the loss, name -> number for what is worth showing).
        """

    def end_epoch(self, target: Target, history: Sequence[Mapping[str, float]]) -> None:
        """Called after each epoch; its own means are the last of `history`."""

    def finish(self, target: Target, held: Part) -> None:
        """Called once on the trained network, on the CPU in evaluation mode.

        Args:
            target: trained.
            held: the images that were held out; may be empty.
        """

    def weights_name(self, stage: str) -> str:
        """The name of the weights, without the data set."""

    def twin_name(self) -> str:
        """The name of the static twin's weights, without the data set.

        The static twin is the network whose accuracy this one's is compared with.
        """


class Recipe(Protocol):
    """A chain of stages; what an entry point of the group `gatebench.recipes` names.

    Attributes:
        stages: stage name -> its class, in the order in which they are trained.
    """

    stages: ClassVar[Mapping[str, type[Stage]]]
