"""What all defenses share: a target around another one, which hands everything on that it does not
change."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from bench.api import Evaluation, Output, Target, Units


class Wrapped(Target):
    """A target that does what the one inside does.

    Subclasses change images on their way in (`before`), decisions, units or cost. `evaluation` is
    that of the network inside; `undefended` is the network without any defense.

    Args:
        inner: the network, or another defense.
    """

    def __init__(self, inner: Target) -> None:
        super().__init__()
        self.inner = inner
        self.image_shape, self.classes = inner.image_shape, inner.classes
        self.units: Units = inner.units
        self.forks = inner.forks
        self.admits = inner.admits
        self.draws = inner.draws
        self.overhead = 0

    @property
    def evaluation(self) -> Evaluation:
        """How the network inside is evaluated."""
        return self.inner.evaluation

    @evaluation.setter
    def evaluation(self, value: Evaluation) -> None:
        self.inner.evaluation = value

    def equivalent(self) -> Target:
        """This defense around the equivalent of the network inside."""
        made = copy.deepcopy(self)
        made.inner = self.inner.equivalent()
        return made

    def before(self, images: Tensor) -> Tensor:
        """(N, C, H, W) what the network inside gets to see."""
        return images

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, C, H, W) in [0,1]."""
        return self.inner(self.before(images), decisions)  # type: ignore[no-any-return]

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, C, H, W) and leave the work out."""
        return self.inner.execute(self.before(image), decisions)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: of the network inside, and what the defense itself multiplies."""
        return self.inner.macs(decisions) + self.overhead

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """(N, U) int64: those of the network inside."""
        return self.inner.marginal_macs(decisions)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Those of the network inside."""
        return self.inner.extremes()

    @property
    def bound(self) -> int:
        """That of the network inside, and what the defense itself multiplies."""
        return self.inner.bound + self.overhead

    @property
    def undefended(self) -> Target:
        """The network without any defense."""
        return self.inner.undefended


class StraightThrough(torch.autograd.Function):
    """`value` in the forward pass; in the backward pass the gradient of `like`, or none (BPDA,
    Athalye et al., ICML 2018)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, like: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]
