"""What a target is: a dynamic network with its weights, and what it says about images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.contracts.units import Units

MaskGrad = Literal["ste", "none"]
"""How a hard mask passes gradients: "ste" straight-through (that of the gate value), "none" a constant."""


@dataclass(frozen=True)
class Output:
    """What a target says about N images, with K classes and U units.

    Attributes:
        logits: (N, K), with the decisions taken.
        margins: (N, U) of all units, reached or not; differentiable with respect to the images.
        logit_margins: (N, U), the same zero set before squashing (pre-sigmoid, pre-ReLU); `margins` where there is none.
        decisions: (N, U) bool, what really ran.
        exits: (N, E, K) logits of every exit, the last included; None for networks without exits.
    """

    logits: Tensor
    margins: Tensor
    logit_margins: Tensor
    decisions: Tensor
    exits: Tensor | None = None

    def detach(self) -> Output:
        """The same values without their graph."""
        return replace(
            self,
            logits=self.logits.detach(),
            margins=self.margins.detach(),
            logit_margins=self.logit_margins.detach(),
            exits=None if self.exits is None else self.exits.detach(),
        )

    def rows(self, index: Tensor) -> Output:
        """The rows named by `index`, in that order."""
        return Output(
            self.logits[index],
            self.margins[index],
            self.logit_margins[index],
            self.decisions[index],
            None if self.exits is None else self.exits[index],
        )


Governor = Callable[[int, Tensor, Tensor], Tensor]
"""(first unit, (N, k) margins, (N, k) bool wanted) -> (N, k) bool, which of the k units from `first` on really run."""

ForkEdit = Callable[[int, int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(loss index, unit, gradient of the main path, gradient of the gate path) -> the two gradients to use instead."""


class Target(nn.Module, ABC):
    """A dynamic network with its weights.

    Required: `forward`, `execute`, `macs`; and, set in `__init__`, the attributes `units`, `image_shape` and `classes`.
    Optional: `extremes` (where not every combination of decisions is admissible), calls of `fork` and of `admit`.

    Attributes:
        units: the U pieces of work that can be left out.
        image_shape: (C, H, W).
        classes: K.
        mask_grad: what this network's original does with the gradient of a hard mask; an attack may choose otherwise.
            Straight-through masks never change a forward value.
        surrogate: whether a stage that has no gradient (JPEG, rounding) passes that of its surrogate on (BPDA); an attack may switch
            it off.
        draws: over how many draws a random target is scored; 1 for all that decide alike every time.
        seeds: (N,) int64, one a row, from which a random target draws in its next evaluation; None is seed 0 for every row. Equal seeds
            give equal results: everything random comes from them.
    """

    version: ClassVar[int] = 1
    """Bumped when the numbers of this class change; part of every cell's key."""
    follows: ClassVar[str] = ""
    """The paper that the network follows, for people."""
    unit: ClassVar[str] = ""
    """What one unit is, for people."""
    skipped: ClassVar[str] = ""
    """What `execute` physically leaves out, for people."""
    forks: ClassVar[bool] = False
    """Whether gates read their features through `fork`, so that an attack can edit the gradients that meet there."""
    admits: ClassVar[bool] = False
    """Whether every decision passes through `admit`, so that a budget cap can hold units back while the network runs."""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    units: Units
    image_shape: tuple[int, int, int]
    classes: int
    mask_grad: MaskGrad = "none"
    surrogate: bool = True
    draws: int = 1
    seeds: Tensor | None = None
    governor: Governor | None = None

    def __init__(self) -> None:
        super().__init__()
        self._fork_edit: ForkEdit | None = None
        self._fork_loss = 0

    @abstractmethod
    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images at once, differentiably.

        Args:
            images: (N, C, H, W) in [0,1].
            decisions: (N, U) bool forces exactly those units, whatever the gates say; margins are still reported.
        """

    @abstractmethod
    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image and really leave the work out: what is counted, and what latency means.

        Args:
            image: (1, C, H, W) in [0,1].
            decisions: (1, U) bool, as in `forward`.

        Agrees with `forward` in logits (to float noise) and decisions (exactly, but for margins within that noise).
        """

    @abstractmethod
    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64, the exact MACs of `execute` under these (N, U) decisions."""

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The cheapest and the dearest admissible decisions, each (1, U) bool; all off and all on unless overridden."""
        off = torch.zeros(1, len(self.units), dtype=torch.bool)
        return off, ~off

    @property
    def floor(self) -> int:
        """MACs of the cheapest decisions that the target's own rule admits."""
        return int(self.macs(self.extremes()[0]))

    @property
    def ceiling(self) -> int:
        """MACs of the dearest decisions that the target's own rule admits."""
        return int(self.macs(self.extremes()[1]))

    @property
    def bound(self) -> int:
        """MACs that no execution exceeds: the ceiling, unless a rule admits less than it (a cap) or dearer mixtures than it."""
        return self.ceiling

    @property
    def undefended(self) -> Target:
        """The network without the defences around it; itself where there are none."""
        return self

    def admit(self, first: int, margins: Tensor, wanted: Tensor) -> Tensor:
        """The rule's decisions on a group of units, on their way to being carried out: `wanted`, unless a governor holds some back.

        Args:
            first: the first unit of the group; it is consecutive, and groups come in the order in which they run.
            margins: (N, k). wanted: (N, k) bool.
        """
        return wanted if self.governor is None else self.governor(first, margins.detach(), wanted)

    def fork(self, x: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        """The identity through which the gate of `unit` reads its features: (main path, gate path).

        An attack may edit the two gradients that meet here (`View.gradients(..., at_fork=…)`).
        """
        if self._fork_edit is None or not x.requires_grad:
            return x, x
        main, gate = _Fork.apply(x, self, unit)  # type: ignore[no-untyped-call]
        return main, gate


class _Fork(torch.autograd.Function):
    """Identity on two paths whose backward hands both gradients to the target's fork edit before adding them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Target, unit: int) -> tuple[Tensor, Tensor]:
        ctx.target, ctx.unit = target, unit
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        main, gate = grads
        edit = ctx.target._fork_edit
        if edit is not None:
            main, gate = edit(ctx.target._fork_loss, ctx.unit, main, gate)
        return main + gate, None, None
