"""Optimisers over a batch whose rows leave at their own time: nothing is shared between rows, and
rows can be dropped.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor

from attacks.rules import norms

OptimizerName = Literal["adam", "sgd", "normalised", "sign", "capped"]
Schedule = Literal["constant", "cosine"]


class Optimizer(ABC):
    """Turns gradients into steps, one row an image.

    Args:
        lr: the learning rate; for "normalised" and "sign" the root mean square of a step.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr

    @abstractmethod
    def step(self, gradient: Tensor) -> Tensor:
        """(M, C, H, W) what to subtract from the free variable."""

    def keep(self, index: Tensor) -> None:  # noqa: B027 — most have no state
        """Go on with the rows at `index` alone."""


class Adam(Optimizer):
    """Adam with bias correction and the usual constants (0.9, 0.999, 1e-8).

    The same numbers as `torch.optim.Adam`.
    """

    def __init__(
        self, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
    ) -> None:
        super().__init__(lr)
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.count = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def step(self, gradient: Tensor) -> Tensor:
        if self.first is None or self.second is None:
            self.first, self.second = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.count += 1
        self.first.lerp_(gradient, 1 - self.beta1)
        self.second.mul_(self.beta2).addcmul_(gradient, gradient, value=1 - self.beta2)
        root = (self.second / (1 - self.beta2**self.count)).sqrt_().add_(self.eps)
        return self.first / root * (self.lr / (1 - self.beta1**self.count))

    def keep(self, index: Tensor) -> None:
        if self.first is not None and self.second is not None:
            self.first, self.second = self.first[index], self.second[index]


class Sgd(Optimizer):
    """Plain gradient descent."""

    def step(self, gradient: Tensor) -> Tensor:
        return gradient * self.lr


class Normalized(Optimizer):
    """Gradient descent with steps of one length: root mean square `lr` over an image's values."""

    def step(self, gradient: Tensor) -> Tensor:
        norm = norms(gradient)
        length = self.lr * gradient[0].numel() ** 0.5
        return gradient * torch.where(
            norm > 0, length / norm.clamp(min=1e-38), torch.zeros_like(norm)
        )


class Sign(Optimizer):
    """Sign descent: every value moves by `lr`, as in projected gradient descent under L_inf."""

    def step(self, gradient: Tensor) -> Tensor:
        return gradient.sign() * self.lr


class ClippedGradient(Optimizer):
    """Gradient descent whose gradients are shortened to norm 1 where they are longer, and never
    lengthened (DeepSloth's L2 attack).
    """

    def step(self, gradient: Tensor) -> Tensor:
        return gradient * (self.lr / norms(gradient).clamp(min=1))


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "sgd": Sgd,
    "normalised": Normalized,
    "sign": Sign,
    "capped": ClippedGradient,
}


def decay(schedule: Schedule, share: Tensor) -> Tensor:
    """(M, 1, 1, 1) the factor on the learning rate when `share` (M,) in [0,1] of the run is over.

    Cosine ends at 1 % of it.
    """
    if schedule == "constant":
        return torch.ones_like(share)[:, None, None, None]
    return (0.01 + 0.99 * 0.5 * (1 + (torch.pi * share.clamp(0, 1)).cos()))[:, None, None, None]
