"""What an attack is, and how it reaches a target."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from bench.contracts.target import ForkEdit, Output, Target
from bench.contracts.threat import Threat
from bench.contracts.units import Units

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

    def gradients(
        self, losses: Losses, images: Tensor, rows: Tensor, at_fork: ForkEdit | None = None
    ) -> tuple[Output, tuple[Tensor, ...]]:
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
    progress: Callable[[int, int], None] = field(
        default=lambda done, total: None, repr=False, compare=False
    )

    def generators(self) -> list[torch.Generator]:
        """One fresh CPU generator an image, seeded by the protocol's seed and the image's id alone."""
        return [image_generator(self.seed, name) for name in self.ids]

    def draw(self, shape: Sequence[int], *, normal: bool = False) -> Tensor:
        """(N, *shape) numbers, row i from image i's own generator: uniform in [0,1), or standard normal."""
        draw = torch.randn if normal else torch.rand
        return torch.stack(
            [draw(tuple(shape), generator=generator) for generator in self.generators()]
        )


def image_generator(seed: int, name: str) -> torch.Generator:
    """A CPU generator that depends on the seed and the image's id, and on nothing else."""
    return torch.Generator().manual_seed(
        int.from_bytes(sha256(f"{seed}\n{name}".encode()).digest()[:8], "big") >> 1
    )


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
        unkeyed_defaults: parameters added after results were published, whose default changes
            nothing: at their default they are left out of plans, and so of keys; literals.
        ranges: parameter -> (least, most) a plan may give it, None where there is no bound; literals.
    """

    access: ClassVar[Literal["gates", "macs"]] = "gates"
    randomised: ClassVar[bool] = False
    fits: ClassVar[bool] = False
    version: ClassVar[int] = 1
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
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
