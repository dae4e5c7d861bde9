"""What a defense is: something put around a target, or trained into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from bench.contracts.target import Target


class Defense(ABC):
    """Something put around a target. A wrapped target is a target: audited, counted, attackable.

    Parameters are the keyword-only arguments of `__init__`, or the fields of a dataclass. `targets.defenses.wrapped.Wrapped` is a
    target that hands everything on to the one inside; most defences start from it.

    Attributes:
        fits: whether `fit` is overridden, so that a plan asks for the images it needs.
        follows: the paper, for people. version, presets, ranges: as for attacks.
    """

    fits: ClassVar[bool] = False
    version: ClassVar[int] = 1
    follows: ClassVar[str] = ""
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def fit(self, target: Target, images: Tensor) -> dict[str, Tensor]:
        """What the defence learns from clean images that are never scored (the plan's fit split), handed to `wrap`.

        Args:
            target: frozen, in eval mode. images: (N, C, H, W).
        """
        return {}

    @abstractmethod
    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        """The defended target.

        Args:
            target: with its weights. learnt: what `fit` returned; a defence that does not fit may leave this argument out.
        """
