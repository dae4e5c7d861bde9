"""What a defense is: something put around a target, or trained into it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from bench.contracts.target import Target


class Defense(ABC):
    """Something put around a target. A wrapped target is a target: audited, counted, attackable.

    Parameters are the keyword-only arguments of `__init__`, or the fields of a dataclass.
    `targets.defenses.wrapped.Wrapped` is a target that hands everything on to the one inside; most
    defenses start from it. All class attributes below are read from the source without importing
    it, so their values are literals.

    Required methods: `wrap`.
    Optional methods: `fit`.

    Attributes:
        fits: whether `fit` is overridden, so that a plan asks for the images that it needs.
        version: bumped when the numbers of this class change; part of every cell's key.
        follows: the paper that it follows.
        presets: named sets of parameters (`use = "cap:tight"`).
        ranges: parameter -> (least, most) that a plan may give; None where there is no bound.
    """

    fits: ClassVar[bool] = False
    version: ClassVar[int] = 1
    follows: ClassVar[str] = ""
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def fit(self, target: Target, images: Tensor) -> dict[str, Tensor]:
        """What the defense learns from clean images that are never scored.

        Every process calls it: from the same network and images it returns the same. Cells of
        which shards come from defenses that learned otherwise get no numbers.

        Args:
            target: the undefended target, frozen, in eval mode.
            images: (N, C, H, W), all images of the plan's fit split.

        Returns:
            Named, finite tensors, handed to `wrap`.
        """
        return {}

    @abstractmethod
    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        """The defended target.

        Args:
            target: with its weights.
            learnt: what `fit` returned; a defense that does not fit may leave this argument out.
        """
