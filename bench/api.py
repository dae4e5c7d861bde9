"""The contracts: what a target, an attack and a defence are, and the values that pass between them.

This is all that a plugin author imports. Images are float tensors in [0,1], shape (N, C, H, W); targets normalise
inside. MACs are 64-bit integers. `bench.testing` checks an implementation against what is promised here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from bench.errors import BudgetSpent
from bench.threat import Threat
from bench.units import Units

__all__ = [
    "Attack",
    "BudgetSpent",
    "Defense",
    "ForkEdit",
    "Governor",
    "Job",
    "Losses",
    "MaskGrad",
    "Output",
    "Skip",
    "Target",
    "Threat",
    "Units",
    "View",
]

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


Losses = Callable[[Output], Sequence[Tensor]]
"""Output -> one (M,) tensor a loss, one number a row. A row whose loss is exactly 0 promises a zero gradient."""


class View(Protocol):
    """How an attack reaches a target: counted, budgeted, and no further than its access allows.

    `rows` is (M,) int64 and says which image of the batch each of the M evaluated images belongs to (restarts, draws,
    batches that shrink). Costs are counted per image in forward-equivalents: a forward is 1, a backward 2.
    """

    @property
    def units(self) -> Units: ...
    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    @property
    def classes(self) -> int: ...
    @property
    def floor(self) -> int: ...
    @property
    def ceiling(self) -> int: ...
    @property
    def draws(self) -> int:
        """Over how many draws the target that is seen is scored; above 1 it is random, and what one look costs says little."""
        ...

    @property
    def left(self) -> Tensor:
        """(N,) int64, forward-equivalents left to each image of the batch; where each costs several draws, how many of those are left."""
        ...

    def using(
        self,
        mask_grad: Literal["target", "ste", "none"] = "target",
        *,
        knows: Literal["defense", "network"] = "defense",
        surrogate: bool = True,
        draws: int | Literal["auto"] = "auto",
        alarm: Literal["raise", "avoid"] = "raise",
    ) -> View:
        """The same view (and the same budget), seen otherwise.

        Args:
            mask_grad: gradient of hard masks; "target" leaves the target's own.
            knows: "defense" is the whole defended pipeline; "network" the network inside, as seen by who knows of no defence.
            surrogate: whether stages without a gradient pass their surrogate's on (BPDA).
            draws: of a random target, over which outputs, gradients and MACs are averaged (EOT), each paid for; "auto" is as many of the
                target's own as leave 25 steps of 3.
            alarm: "avoid" prices decisions that set off a monitor at 0, for attacks that want to stay unseen.
        """
        ...

    def within(self, budget: int) -> View:
        """The same view, of which each image may use `budget` more forward-equivalents (and no more than it has left)."""
        ...

    def __call__(self, images: Tensor, rows: Tensor) -> Output:
        """Evaluate without a graph. Costs 1 a row; needs access "gates"."""
        ...

    def gradients(self, losses: Losses, images: Tensor, rows: Tensor, at_fork: ForkEdit | None = None) -> tuple[Output, tuple[Tensor, ...]]:
        """One forward, and one gradient with respect to `images` for each loss.

        Costs 1 a row, and 2 more for each loss that is not exactly 0 in that row. Needs access "gates".
        """
        ...

    def macs(self, images: Tensor, rows: Tensor) -> Tensor:
        """(M,) int64, executed MACs. Costs 1 a row; the only door for access "macs"."""
        ...

    def price(self, decisions: Tensor) -> Tensor:
        """(M,) int64, MACs of (M, U) decisions already seen. Free; needs access "gates"."""
        ...


@dataclass(frozen=True)
class Job:
    """What an attack is to do, beside the images.

    Attributes:
        threat: what the saved image may change; iterates are projected onto it.
        budget: forward-equivalents for each image.
        ids: the image ids of the batch.
        seed: of the protocol.
        fitted: what the attack's own `fit` returned, on the images' device; {} for attacks that fit nothing.
        progress: call with (done, total) steps; may be called often.
    """

    threat: Threat
    budget: int
    ids: tuple[str, ...]
    seed: int = 0
    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    progress: Callable[[int, int], None] = field(default=lambda done, total: None, repr=False, compare=False)

    def generators(self) -> list[torch.Generator]:
        """One fresh CPU generator an image, seeded by the protocol's seed and the image's id alone."""
        return [image_generator(self.seed, name) for name in self.ids]

    def draw(self, shape: Sequence[int], *, normal: bool = False) -> Tensor:
        """(N, *shape) numbers, row i from image i's own generator: uniform in [0,1), or standard normal."""
        draw = torch.randn if normal else torch.rand
        return torch.stack([draw(tuple(shape), generator=generator) for generator in self.generators()])


def image_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the image's id, and on nothing else."""
    return torch.Generator().manual_seed(int.from_bytes(sha256(f"{seed}\n{name}".encode()).digest()[:8], "big") >> 1)


@dataclass(frozen=True)
class Skip:
    """Why an attack does not run on a target; the cell is `skipped` with this reason."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An energy-oriented attack; subclasses are frozen, keyword-only dataclasses whose fields are its parameters.

    Attributes:
        access: "gates" sees margins and gradients; "macs" sees executed MACs only (black box).
        randomised: whether another seed gives another result.
        fits: whether `fit` is overridden, so that a plan asks for the images it needs before anything is imported.
        needs: what it needs from a target beyond margins, for people.
        threats: under which threats it runs, for people; `supports` decides.
        step_cost: forward-equivalents of one step, for people.
        version: bumped when the numbers of this class change; part of every cell's key.
        presets: named sets of parameters (`use = "gradauto:code"`), literals.
        ranges: parameter -> (least, most) a plan may give it, None where there is no bound; literals.
    """

    access: ClassVar[Literal["gates", "macs"]] = "gates"
    randomised: ClassVar[bool] = False
    fits: ClassVar[bool] = False
    version: ClassVar[int] = 1
    follows: ClassVar[str] = ""
    needs: ClassVar[str] = "margins"
    threats: ClassVar[str] = "linf, l2, psnr, patch, none"
    step_cost: ClassVar[str] = ""
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """None when the attack can run; else the reason why not."""
        return None

    def fit(self, view: View, images: Tensor, job: Job) -> dict[str, Tensor]:
        """What the attack learns once for all images it will perturb (universal perturbations, patches); once a cell.

        Args:
            view: the way to the target; each fit image has the fit's own budget.
            images: (N, C, H, W) all images of the plan's fit split, none of which is attacked later.
            job: threat, budget and ids of the fit.

        Returns:
            Named tensors, handed back to `perturb` as `job.fitted`.
        """
        return {}

    @abstractmethod
    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        """Adversarial images, (N, C, H, W) float in [0,1], inside `job.threat`.

        Args:
            view: the way to the target.
            images: (N, C, H, W), the clean images; not to be edited in place.
            labels: (N,) int64, the target's own clean predictions.
            job: threat, budget, ids, generators, progress.
        """


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


class Report(ABC):
    """Renders a frozen board. Pure: the same board gives the same bytes."""

    @abstractmethod
    def render(self, board: Any, out: Any) -> None:
        """Write the report of `board` (a `bench.board.Board`) into the folder `out` (a `pathlib.Path`)."""
