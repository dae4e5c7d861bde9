"""What a target is: a dynamic network with its weights, and what it says about images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, TypedDict, Unpack

import torch
from torch import Tensor, nn

from bench.contracts.units import Units

MaskGrad = Literal["ste", "none"]
"""The gradient of a hard mask: "ste" is straight-through (that of the gate value), "none" is 0."""


@dataclass(frozen=True)
class Output:
    """What a target says about N images, with K classes and U units.

    Attributes:
        logits: (N, K), with the decisions taken.
        margins: (N, U) of all units, reached or not; differentiable with respect to the images.
        logit_margins: (N, U), the margins before squashing (pre-sigmoid, pre-ReLU), with the same
            zero set; equal to `margins` where there is no squashing.
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
"""(first unit, (N, k) margins, (N, k) bool wanted) -> (N, k) bool: which of these k units run."""

ForkEdit = Callable[[int, int, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(loss index, unit, gradient of the main path, of the gate path) -> the two gradients to use."""


@dataclass(frozen=True)
class Evaluation:
    """How a target is evaluated: everything that may differ between two forward passes.

    A target reads it as `self.evaluation`. Only `Target.evaluating` changes it.

    Attributes:
        mask_grad: the gradient of hard masks. It never changes a forward value.
        surrogate: whether a stage without a gradient (JPEG, rounding) passes on the gradient of
            its surrogate (BPDA: Athalye et al., ICML 2018).
        seeds: (N,) int64, one a row, from which a random target draws; None is seed 0 for every
            row. Everything random comes from them: equal seeds give equal results.
        governor: holds back units that the target's own rule wants to run (`Target.admit`).
        at_fork: edits the gradients that meet at a fork during a backward pass (`Target.fork`).
        loss: the loss index that `at_fork` is called with.
    """

    mask_grad: MaskGrad = "none"
    surrogate: bool = True
    seeds: Tensor | None = None
    governor: Governor | None = None
    at_fork: ForkEdit | None = None
    loss: int = 0


class EvaluationChanges(TypedDict, total=False):
    """The keyword arguments of `Target.evaluating`: any of the fields of `Evaluation`."""

    mask_grad: MaskGrad
    surrogate: bool
    seeds: Tensor | None
    governor: Governor | None
    at_fork: ForkEdit | None
    loss: int


class Target(nn.Module, ABC):
    """A dynamic network with its weights.

    Required methods: `forward`, `execute`, `macs`.
    Required attributes, set in `__init__`: `units`, `image_shape`, `classes`.
    Optional methods: `extremes`, where not every combination of decisions is admissible; `bound`;
    `equivalent`, where the same can be computed faster; `marginal_macs`, where the count is no sum.
    Optional calls: `fork` where a gate reads its features, `admit` where a decision is taken.

    Attributes:
        units: the U pieces of work that can be left out.
        image_shape: (C, H, W).
        classes: K, the number of classes.
        evaluation: how it is evaluated now. A subclass sets its own default, for instance
            `Evaluation(mask_grad="ste")` where the original trains with straight-through masks.
        draws: over how many draws a random target is scored; 1 for deterministic targets.
        forks: whether gates read their features through `fork`, so that an attack can edit the
            gradients that meet there.
        admits: whether every decision passes through `admit`, so that a budget cap can hold units
            back while the network runs.
        version: bumped when the numbers of this class change; part of every cell's key.
        follows: the paper that the network follows.
        unit: what one unit is, in a few words.
        skipped: what `execute` physically leaves out, in a few words.
        presets: named sets of parameters (`use = "skipnet:imagenet-101"`); literals.
        unkeyed_defaults: parameters added after results were published, whose default changes
            nothing: at their default they are left out of plans, and so of keys.
        plan_check: "module:function" that a plan calls with (a function that loads the class, all
            parameters as it takes them), and that raises a PlanError where they make no network in
            a way that types and ranges cannot tell.
        ranges: parameter -> (least, most) that a plan may give; None where there is no bound.
    """

    version: ClassVar[int] = 1
    follows: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    skipped: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {}
    plan_check: ClassVar[str] = ""

    forks: bool = False
    admits: bool = False
    draws: int = 1
    units: Units
    image_shape: tuple[int, int, int]
    classes: int
    evaluation: Evaluation = Evaluation()

    @contextmanager
    def evaluating(self, **changes: Unpack[EvaluationChanges]) -> Iterator[None]:
        """Evaluate differently inside a `with` block; afterwards as before.

        Args:
            changes: fields of `Evaluation`; those not named stay as they are.

        Example:
            >>> from bench.testing import ToyTarget
            >>> target = ToyTarget()
            >>> with target.evaluating(mask_grad="ste"):
            ...     target.evaluation.mask_grad
            'ste'
            >>> target.evaluation.mask_grad
            'none'
        """
        before = self.evaluation
        self.evaluation = replace(before, **changes)
        try:
            yield
        finally:
            self.evaluation = before

    @abstractmethod
    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images at once, differentiably.

        Args:
            images: (N, C, H, W) in [0,1].
            decisions: (N, U) bool forces exactly those units, whatever the gates say; margins are
                still reported.
        """

    @abstractmethod
    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image and really leave the work out: what is counted, and what latency
        means.

        Args:
            image: (1, C, H, W) in [0,1].
            decisions: (1, U) bool, as in `forward`.

        Agrees with `forward` in logits (to float noise) and decisions (exactly, but for margins
        within that noise).
        """

    @abstractmethod
    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64, the exact MACs of `execute` under these (N, U) decisions."""

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """(N, U) int64, how far `macs` moves when the decision on that unit alone is turned.

        It tells an attack what a unit is worth now. Where the count is no plain sum over the units,
        a subclass says better than this one, which returns the units' costs.
        """
        return self.units.column("cost", decisions.device).expand(len(decisions), -1)

    def equivalent(self) -> Target:
        """A network that computes the same and is faster to take gradients of, for attacks alone.

        It has the same units and costs, and agrees with this one to float noise, which is checked
        on every batch.
        What an attack found is scored, executed and counted on this one.

        Returns:
            Another network, or this one where there is nothing to gain; this one unless overridden.
        """
        return self

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The cheapest and the dearest admissible decisions, each (1, U) bool; all off and all on
        unless overridden."""
        off = torch.zeros(1, len(self.units), dtype=torch.bool)
        return off, ~off

    @cached_property
    def floor(self) -> int:
        """MACs of the cheapest decisions that the target's own rule admits.

        Computed at the first access (one `extremes` and one `macs`) and kept.
        """
        return int(self.macs(self.extremes()[0]))

    @cached_property
    def ceiling(self) -> int:
        """MACs of the dearest decisions that the target's own rule admits.

        Computed at the first access (one `extremes` and one `macs`) and kept.
        """
        return int(self.macs(self.extremes()[1]))

    @property
    def bound(self) -> int:
        """MACs that no execution exceeds.

        The ceiling, unless a rule admits less (a cap) or some other decisions cost more.
        """
        return self.ceiling

    @property
    def undefended(self) -> Target:
        """The network without the defenses around it; itself where there are none."""
        return self

    def admit(self, first: int, margins: Tensor, wanted: Tensor) -> Tensor:
        """The rule's decisions on a group of units, before they are carried out.

        Groups are consecutive units and come in the order in which they run.

        Args:
            first: the first unit of the group.
            margins: (N, k).
            wanted: (N, k) bool, what the rule decides.

        Returns:
            (N, k) bool: `wanted`, unless a governor holds some units back.
        """
        governor = self.evaluation.governor
        return wanted if governor is None else governor(first, margins.detach(), wanted)

    def fork(self, x: Tensor, unit: int) -> tuple[Tensor, Tensor]:
        """The identity through which the gate of `unit` reads its features.

        An attack may edit the two gradients that meet here (`View.gradients(..., at_fork=...)`).

        Args:
            x: the features.
            unit: the index of the unit.

        Returns:
            (main path, gate path), both equal to `x`.
        """
        if self.evaluation.at_fork is None or not x.requires_grad:
            return x, x
        main, gate = _Fork.apply(x, self, unit)
        return main, gate


class _Fork(torch.autograd.Function):
    """Identity on two paths; its backward edits both gradients (`at_fork`) before adding them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Target, unit: int) -> tuple[Tensor, Tensor]:
        ctx.target, ctx.unit = target, unit
        return x.view_as(x), x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        main, gate = grads
        now: Evaluation = ctx.target.evaluation
        if now.at_fork is not None:
            main, gate = now.at_fork(now.loss, ctx.unit, main, gate)
        return main + gate, None, None
