"""GradMDM (Pan et al., TPAMI 2023): power losses on the gates, rectified inside the network where
each gate reads its features.

With gate values G in [0,1], threshold 1/2, and p-norms over the gates of an image,

    L_neg = - || min(G, 1/2) ||_p-     opens closed gates, the nearest to the threshold first (p- =
    3.5) L_pos =   || 1 - max(G, 1/2) ||_p+ keeps open ones open, the nearest (p+ = 50) or surest
    (p+ = 0.35).

At every gate the gradient coming down the main path and the one coming from the gate meet. Each is
scaled to norm 1 and the main path is multiplied by the number of gates from there to the end that
the loss is about, so that a gate counts as much however deep it sits (magnitude). In the backward
pass of L_neg, whatever opposes the gradient of L_pos at the same point is then taken out
(direction). The step is

    g = s * grad L_neg + gamma * grad sum (x' - x)^2.

The paper's PDF was not at hand; this follows the released script (lingengfoo/GradMDM) from its
description, with its traps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Point, gradauto_box, published_only, statistics_of, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.objective import MarginLoss, SquaredDistance
from attacks.optimizer import OPTIMIZERS
from attacks.rules import magnitude
from bench.api import ForkEdit, Job, Output, Skip, Target, Threat, Units, View

LEAST_GAP = 1e-6
"""1 - G is kept above this: a p-norm with p < 1 has an unbounded slope at 0."""


@dataclass(frozen=True, kw_only=True)
class GradMDM(GradientAttack):
    """Power losses, gradients rectified at every gate in the network (GradMDM, TPAMI 2023).

    Costs per step: 1 forward, 2 backwards; 1 backward while no gate is open yet or rectification
    has not begun; 1 forward alone once every gate is open.

    Presets: `code` repeats the released script for HRL networks (p+ = 50), `code-sp` for SP ones
    (p+ = 0.35): stretched start, counts swapped as below, last iterate; under threat "none" only.
    `clean` starts at the image, counts the gates that the loss is about, scales the final gradient
    as GradAuto does, so that gamma means the same on every network, and keeps the best verified
    image. The bare name is `clean` for a ball and a budget: steps of one length, shrinking, no
    distance term.

    The original's keep-the-label option is left out: it runs a third backward pass first, which its
    in-network state mistakes for the one of L_pos.

    Attributes:
        steps: evaluations at most, or "budget".
        p_open: p+ and p-.
        p_closed: p+ and p-.
        warmup: first steps with p = 1 and no rectification, or a share of the run where it is below
            1.
        counts: "swapped" multiplies the main path of L_pos by the number of closed gates and that
            of L_neg by the open ones, as the released code does; "own" the other way round, as its
            description has it.
        scale: s; "values" normalises grad L_neg to root mean square 1, as GradAuto's rectified
            magnitude with K = 1 does.
        gamma: weight of the squared distance; larger keeps the image nearer.
        optimiser: see `attacks.gradient_attack.GradientAttack`.
        lr: see `attacks.gradient_attack.GradientAttack`.
        schedule: see `attacks.gradient_attack.GradientAttack`.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        loss: "powers" the losses above; or a penalty of `attacks.penalties` on missing units, and
            of what is past the threshold on finished ones, in logits.
        box: as in GradAuto.
        bounds: as in GradAuto.
        statistics: as in GradAuto.
        distance: as in GradAuto.
        iterate: as in GradAuto.
        verify: as in GradAuto.
        stop_at_ceiling: as in GradAuto.
        rounding: as in GradAuto.
    """

    losses: ClassVar[tuple[str, ...]] = ("powers",)
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Pan et al., GradMDM: Adversarial Attack on Dynamic Networks, TPAMI 45(9), 2023"
    )
    step_cost: ClassVar[str] = (
        "5 (forward and two backwards); 3 during the warm-up; 1 once every gate is open"
    )
    needs: ClassVar[str] = "gates that read their features through `Target.fork`"
    threats: ClassVar[str] = "linf, l2, psnr, patch, none; presets code and code-sp under none only"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "p_open": (0.05, None),
        "p_closed": (0.05, None),
        "warmup": (0, None),
        "gamma": (0, None),
        "lr": (0, None),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {
            "steps": 100,
            "warmup": 10,
            "counts": "swapped",
            "scale": 1.5e5,
            "gamma": 100.0,
            "optimiser": "adam",
            "schedule": "constant",
            "box": "stretch",
            "bounds": "released",
            "distance": "normalised",
            "iterate": "last",
            "verify": False,
        },
        "code-sp": {
            "steps": 100,
            "p_open": 0.35,
            "warmup": 10,
            "counts": "swapped",
            "scale": 1.5e5,
            "gamma": 100.0,
            "optimiser": "adam",
            "schedule": "constant",
            "box": "stretch",
            "bounds": "released",
            "distance": "normalised",
            "iterate": "last",
            "verify": False,
        },
        "clean": {
            "steps": 100,
            "optimiser": "adam",
            "schedule": "constant",
            "gamma": 1.0,
            "distance": "pixels",
            "stop_at_ceiling": False,
        },
    }

    loss: Literal["powers"] | str = "powers"
    steps: int | Literal["budget"] = "budget"
    p_open: float = 50.0
    p_closed: float = 3.5
    warmup: float = 0.1
    counts: Literal["own", "swapped"] = "own"
    scale: float | Literal["values"] = "values"
    gamma: float = 0.0
    optimiser: Literal["adam", "sgd", "normalised", "sign"] = "normalised"
    lr: float = 0.01
    schedule: Literal["constant", "cosine"] = "cosine"
    box: Literal["clamp", "tanh", "stretch", "literal"] = "clamp"
    bounds: Literal["exact", "released"] = "exact"
    statistics: Literal["auto", "imagenet", "cifar10"] = "auto"
    distance: Literal["pixels", "normalised", "none"] = "none"
    iterate: Literal["best", "first", "last", "loss"] = "best"
    verify: bool = True
    stop_at_ceiling: bool = True
    rounding: Literal["after", "inside"] = "after"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """It needs forks; the published maps run under threat "none" only."""
        if not target.forks and len(target.units):
            return Skip(
                "it rectifies gradients where gates read their features, and this "
                "target's gates do not read theirs through a fork"
            )
        refusal = self.refusal(target) or no_joint_loss(self)
        return refusal or published_only(
            gradauto_box(self.box, target.image_shape, self.statistics, self.bounds), threat
        )

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        best = BestImage(view, images, job.threat, self.iterate, verify=self.verify)
        box = with_rounding(
            gradauto_box(self.box, view.image_shape, self.statistics, self.bounds), self.rounding
        )
        descent = Descent(
            view=view,
            job=job,
            clean=images,
            box=box,
            optimizer=OPTIMIZERS[self.optimiser](self.lr),
            best=best,
            steps=self.steps,
            cost=5,
            schedule=self.schedule,
            stop_at_ceiling=self.stop_at_ceiling and job.threat.bounded,
        )
        descent.run(self.step_rule(view, images))
        return best.finish().clamp(0, 1)

    def step_rule(self, view: View, images: Tensor) -> PowerLosses:
        """The attack's part of the loop for the clean `images` of a view."""
        _, std = statistics_of(self.statistics, view.image_shape)
        return PowerLosses(
            self, view, images, SquaredDistance.measured_in(self.distance, std, images.device)
        )


class PowerLosses(StepRule):
    """s * grad L_neg, rectified in the network, + gamma * grad distance."""

    def __init__(self, attack: GradMDM, view: View, clean: Tensor, apart: SquaredDistance) -> None:
        self.attack, self.view, self.clean, self.apart = attack, view, clean, apart
        self.taken = 0
        self.margins: MarginLoss | None = None
        if attack.loss not in attack.losses:
            self.margins = MarginLoss.over(
                view.units, "cost", "logit", 0.0, clean.device, penalty=attack.penalty
            )

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        attack = self.attack
        early = (
            self.taken < attack.warmup
            if attack.warmup >= 1
            else attack.warmup > 0 and self.over < attack.warmup
        )
        self.taken += 1
        forks = ForkRectifier(self.view.units, swapped=attack.counts == "swapped")
        losses: list[Tensor] = []

        def both(output: Output) -> list[Tensor]:
            forks.decisions = output.decisions
            busy = ~output.decisions.all(1)
            if self.margins is not None:
                positive = self.margins.finished(output, busy)
                negative = self.margins.missing(output)
            else:
                positive, negative = power_losses(
                    gate_values(output, self.view.units),
                    1.0 if early else attack.p_open,
                    1.0 if early else attack.p_closed,
                )
            nothing = torch.zeros_like(negative)
            losses.append(torch.where(busy, negative, nothing).detach())
            needed = busy & output.decisions.any(1) & (not early)
            return [torch.where(needed, positive, nothing), torch.where(busy, negative, nothing)]

        edit: ForkEdit | None = None if early else forks
        output, (_, complexity) = self.view.gradients(both, point.image, rows, at_fork=edit)
        complexity = point.pull(torch.nan_to_num(complexity, 0.0, 0.0, 0.0))
        factor = 1.0 if attack.scale == "values" else attack.scale
        if attack.scale == "values":
            complexity = magnitude(complexity, complexity[0].numel() ** 0.5)
        clean = self.clean[rows]
        gradient = factor * complexity + attack.gamma * point.pull(
            self.apart.gradient(point.image, clean)
        )
        return Direction(
            output,
            attack.gamma * self.apart.value(point.image, clean)
            + factor * torch.stack(losses).mean(0),
            gradient,
        )


class ForkRectifier:
    """Edits the two gradients that meet at a gate: backward 0 is that of L_pos, backward 1 that of
    L_neg.

    Args:
        units: of the target.
        swapped: multiply by the counts of the other loss's gates.
    """

    def __init__(self, units: Units, *, swapped: bool) -> None:
        self.swapped = swapped
        self.decisions: Tensor | None = None
        self._protected: dict[int, Tensor] = {}
        owners = list(dict.fromkeys(units.owner))
        self._places = [owners.index(owner) for owner in units.owner]
        self._gate = torch.tensor(self._places, dtype=torch.int64)
        self._sizes = torch.bincount(self._gate, minlength=len(owners))

    def __call__(self, loss: int, unit: int, main: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
        about_open = (loss == 0) != self.swapped
        count = self._from_here(unit, about_open).to(main.dtype)
        shape = (-1, *(1,) * (main.ndim - 1))
        met = count.view(shape) * unit_rows(main) + unit_rows(gate)
        if loss == 0:
            self._protected[unit] = met
        elif unit in self._protected:
            keep = unit_rows(self._protected[unit])
            met = met - (met * keep).flatten(1).sum(1).clamp(max=0).view(shape) * keep
        return met, torch.zeros_like(met)

    def _from_here(self, unit: int, about_open: bool) -> Tensor:
        """(M,) how many gates from that of `unit` to the last are open, or closed.

        A gate of many units counts by its share of them.
        """
        assert self.decisions is not None
        chosen = self.decisions if about_open else ~self.decisions
        if self._gate.device != chosen.device:
            self._gate = self._gate.to(chosen.device, non_blocking=True)
            self._sizes = self._sizes.to(chosen.device, non_blocking=True)
        sums = torch.zeros((len(chosen), len(self._sizes)), device=chosen.device)
        sums.index_add_(1, self._gate, chosen.to(sums.dtype))
        share = sums / self._sizes.to(sums.dtype)
        return share[:, self._places[unit] :].sum(1)


def unit_rows(gradient: Tensor) -> Tensor:
    """Each row (of a gradient of any number of dimensions) scaled to norm 1.

    A row of zeros stays.
    """
    norm: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1).view(
        -1, *(1,) * (gradient.ndim - 1)
    )
    return gradient / (norm + 1e-20)


def gate_values(output: Output, units: Units) -> Tensor:
    """(M, U) gate values in [0,1] with threshold 1/2: the gates' own where they are so, else the
    sigmoid of the logit margins.
    """
    own = bool(((units.low == 0) & (units.high == 1) & (units.threshold == 0.5)).all())
    return output.margins + 0.5 if own else output.logit_margins.sigmoid()


def power_losses(value: Tensor, p_open: float, p_closed: float) -> tuple[Tensor, Tensor]:
    """(L_pos, L_neg), each (M,), of gate values (M, U)."""
    gap = (1 - value.clamp(min=0.5)).clamp(min=LEAST_GAP)
    positive = torch.linalg.vector_norm(gap, ord=p_open, dim=1)
    negative = -torch.linalg.vector_norm(value.clamp(max=0.5).clamp(min=1e-12), ord=p_closed, dim=1)
    return positive, negative
