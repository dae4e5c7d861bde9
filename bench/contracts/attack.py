"""What an attack is, and how it reaches a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from bench.contracts.target import ForkEdit, Output, Target
from bench.contracts.threat import Threat
from bench.contracts.units import Units
from bench.files.canonical import seed_of

Losses = Callable[[Output], Sequence[Tensor]]
"""Output -> one (M,) tensor a loss, one number a row.

A row whose loss is exactly 0 promises a zero gradient.
"""


class View(Protocol):
    """How an attack reaches a target: counted, budgeted, and no further than its access allows.

    `rows` is (M,) int64 and says to which image of the batch each of the M evaluated images belongs
    (restarts, draws, batches that shrink). Costs are counted per image in forward-equivalents: a
    forward is 1, a backward 2.
    """

    @property
    def units(self) -> Units:
        """The units of the target that is seen."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        ...

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        ...

    @property
    def floor(self) -> int:
        """MACs of the cheapest admissible decisions."""
        ...

    @property
    def ceiling(self) -> int:
        """MACs of the dearest admissible decisions."""
        ...

    @property
    def draws(self) -> int:
        """Over how many draws the target that is seen is scored.

        Above 1 it is random, and the cost seen in one evaluation says little.
        """
        ...

    @property
    def left(self) -> Tensor:
        """(N,) int64, forward-equivalents left to each image of the batch.

        Where an evaluation takes several draws, how many such evaluations are left.
        """
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
        """The same target on the same budget, evaluated differently.

        Args:
            mask_grad: gradient of hard masks; "target" is the target's own.
            knows: "defense" is the whole defended target; "network" the network inside, as seen by
                an attacker who does not know of the defense.
            surrogate: whether stages without a gradient pass on that of their surrogate (BPDA).
            draws: over how many draws of a random target outputs, gradients and MACs are averaged
                (EOT), each paid for; "auto" is as many of the target's own as leave 25 steps of 3.
            alarm: "avoid" prices decisions that run a unit of `Units.alarm` at 0, for attacks that
                want to stay undetected.
        """
        ...

    def within(self, budget: int) -> View:
        """The same view, with a budget of its own inside that of the attack.

        Args:
            budget: forward-equivalents that each image may use here, at most what it has left.
        """
        ...

    def __call__(self, images: Tensor, rows: Tensor) -> Output:
        """Evaluate without a graph. Costs 1 a row; needs access "gates".

        Args:
            images: (M, C, H, W) in [0,1].
            rows: (M,) int64.

        Raises:
            BudgetSpent: an image has not enough left; nothing was evaluated.
        """
        ...

    def gradients(
        self, losses: Losses, images: Tensor, rows: Tensor, at_fork: ForkEdit | None = None
    ) -> tuple[Output, tuple[Tensor, ...]]:
        """One forward, and one gradient with respect to `images` for each loss.

        Costs 1 a row, and 2 more for each loss that is not exactly 0 in that row. Needs access
        "gates".

        Args:
            losses: output -> one (M,) tensor a loss. The output's tensors are leaves of a graph of
                their own, not to be edited in place; nothing leads from them to the network.
            images: (M, C, H, W) in [0,1].
            rows: (M,) int64.
            at_fork: edits the gradients at the target's forks.

        Returns:
            (output without its graph, one (M, C, H, W) gradient a loss).

        Raises:
            BudgetSpent: an image has not enough left.
        """
        ...

    def macs(self, images: Tensor, rows: Tensor) -> Tensor:
        """(M,) int64, executed MACs. Costs 1 a row; all that access "macs" may use.

        Args:
            images: (M, C, H, W) in [0,1].
            rows: (M,) int64.
        """
        ...

    def price(self, decisions: Tensor) -> Tensor:
        """(M,) int64, MACs of (M, U) decisions already seen. Free; needs access "gates"."""
        ...

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """What each unit is worth under these decisions, by the target's own arithmetic.

        Free of charge; needs access "gates".

        Args:
            decisions: (M, U) bool.

        Returns:
            (M, U) int64, how far the executed MACs move when the decision on that unit alone is
            turned; see `bench.api.Target.marginal_macs`.
        """
        ...


@dataclass(frozen=True)
class Job:
    """What an attack is to do, beside the images.

    Attributes:
        threat: what the saved image may change; iterates are projected onto it.
        budget: forward-equivalents for each image.
        ids: the image ids of the batch.
        seed: of the protocol.
        fitted: what the attack's own `fit` returned, on the images' device; {} for attacks that fit
            nothing.
        start: (N, C, H, W) float, the saved images that the attack begins at; None for attacks that
            begin at the clean ones.
        progress: call with (done, total) steps; may be called often.
    """

    threat: Threat
    budget: int
    ids: tuple[str, ...]
    seed: int = 0
    fitted: Mapping[str, Tensor] = field(default_factory=dict, repr=False, compare=False)
    progress: Callable[[int, int], None] = field(
        default=lambda done, total: None, repr=False, compare=False
    )
    start: Tensor | None = field(default=None, repr=False, compare=False)

    def generators(self) -> list[torch.Generator]:
        """One fresh CPU generator an image, seeded by the protocol's seed and the image's id."""
        return [image_generator(self.seed, name) for name in self.ids]

    def draw(self, shape: Sequence[int], *, normal: bool = False) -> Tensor:
        """(N, *shape) numbers, row i from image i's own generator: uniform in [0,1), or standard
        normal."""
        draw = torch.randn if normal else torch.rand
        return torch.stack(
            [draw(tuple(shape), generator=generator) for generator in self.generators()]
        )


def image_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the image's id, and on nothing else."""
    return torch.Generator().manual_seed(seed_of(seed, name))


@dataclass(frozen=True)
class Skip:
    """Why an attack does not run on a target; the cell is `skipped` with this reason.

    Attributes:
        reason: one sentence, shown to people.
    """

    reason: str


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An energy-oriented attack.

    Subclasses are frozen, keyword-only dataclasses; their fields are the parameters of a plan. All
    class attributes below are read from the source without importing it, so their values are
    literals.

    Required methods: `perturb`.
    Optional methods: `supports`, `fit`.

    Attributes:
        access: "gates" sees margins and gradients; "macs" sees executed MACs only (black box).
        randomised: whether another seed gives another result.
        control: whether it is no attack but a control (unchanged images, noise, photometric
            changes). Controls are shown on a board and have no rank.
        fits: whether `fit` is overridden, so that a plan asks for the images that it needs.
        continues: whether its parameter `start` is the key of a cell, whose saved images it is
            handed as `job.start`.
        members: of an ensemble: (attack and preset, parameters) of each member, as a plan would
            name them. Each runs as a cell of its own; the ensemble is the strongest member image by
            image, ties going to the earlier, and its `perturb` is never called.
        needs: what it needs from a target beyond margins, for people.
        threats: under which threats it runs, for people; `supports` decides.
        step_cost: forward-equivalents of one step, for people.
        version: bumped when the numbers of this class change; part of every cell's key.
        follows: the paper that it follows.
        presets: named sets of parameters (`use = "gradauto:code"`).
        unkeyed_defaults: parameters added after results were published, whose default changes
            nothing: at their default they are left out of plans, and so of keys.
        ranges: parameter -> (least, most) that a plan may give; None where there is no bound.
    """

    access: ClassVar[Literal["gates", "macs"]] = "gates"
    randomised: ClassVar[bool] = False
    control: ClassVar[bool] = False
    fits: ClassVar[bool] = False
    continues: ClassVar[bool] = False
    members: ClassVar[Sequence[tuple[str, Mapping[str, Any]]]] = ()
    needs: ClassVar[str] = "margins"
    threats: ClassVar[str] = "linf, l2, psnr, patch, none"
    step_cost: ClassVar[str] = ""
    version: ClassVar[int] = 1
    follows: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {}

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """None when the attack can run; else the reason why not.

        Args:
            target: a copy to look at, without its weights: its class and attributes (`units`,
                `classes`, `draws`, `forks`, `admits`, `floor`, `ceiling`, `undefended`), `macs` and
                the shapes of its weights are there. Evaluating it is refused.
            threat: of the protocol.
        """
        return None

    def fit(self, view: View, images: Tensor, job: Job) -> dict[str, Tensor]:
        """What is learned once a cell for all images (universal perturbations, patches).

        Args:
            view: the way to the target; each fit image has the budget of the fit.
            images: (N, C, H, W), all images of the plan's fit split; none of them is attacked.
            job: threat, budget and ids of the fit.

        Returns:
            Named, finite tensors, handed to `perturb` as `job.fitted`.
        """
        return {}

    @abstractmethod
    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        """Perturb a batch.

        Args:
            view: the way to the target.
            images: (N, C, H, W), the clean images; not to be edited in place.
            labels: (N,) int64, the target's own clean predictions.
            job: threat, budget, ids, generators, progress.

        Returns:
            (N, C, H, W) float in [0,1], inside `job.threat`.
        """
