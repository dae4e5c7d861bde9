"""ILFO (Haque et al., CVPR 2020): the first energy attack on gated networks, in the manner of
Carlini and Wagner.

    minimise  sum (x' - x)^2 + c * f(x'),      f = sum_j max(tau_j - G_j, 0),

by Adam in a tanh box. The PDF's own details beyond this are not public in code form; what is
released covers a recurrent SkipNet-110 on CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Point, ilfo_box, published_only, statistics_of, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.objective import MarginLoss, SquaredDistance, missing_ponder
from attacks.optimizer import Adam
from attacks.token_losses import is_cumulative
from bench.api import Job, Skip, Target, Threat, View


@dataclass(frozen=True, kw_only=True)
class ILFO(GradientAttack):
    """Distance against a hinge on closed gates, its constant searched per image (ILFO, CVPR 2020).

    Costs per step: 1 forward, and 1 backward while a gate is missing.

    Presets: `code` repeats the released script (contrast-stretched start, c = 1e5, smallest total
    loss kept), `paper` the formulation with the tanh box as its text has it; both run under threat
    "none" only. `clean` starts at the image and searches c between 1e-2 and 1e6 as Carlini and
    Wagner do: geometrically down after success, up after failure.

    The bare name searches inside a ball and a budget. There the distance is capped by the ball, so
    a smaller c buys nothing: the search keeps only its upward half, goes on from where it stands,
    and an image leaves once everything runs.

    Attributes:
        steps: evaluations in each round of the search at most, or "budget": the budget shared
            evenly among the rounds.
        rounds: of the search for c; 1 uses `c` alone.
        c: the constant of the first round.
        c_low: the interval searched.
        c_high: the interval searched.
        broadcast: multiply c by the number of units; the released code subtracts (U, 1) from (U,)
            and so sums each hinge U times.
        loss: "hinge" f above; "ponder" for halting networks: f = sum over blocks of the mean over
            positions of max(0, rho_max - rho), rho = N + R the ponder cost, whose gradient passes
            through the remainder R alone.
        weighting: as in GradAuto.
        space: as in GradAuto.
        offset: as in GradAuto.
        box: as in GradAuto.
        statistics: as in GradAuto.
        distance: as in GradAuto.
        iterate: as in GradAuto.
        verify: as in GradAuto.
        rounding: as in GradAuto.
        lr: as in GradAuto.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        alarm: see `attacks.gradient_attack.GradientAttack`.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[tuple[str, ...]] = ("ponder",)
    version: ClassVar[int] = 2
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "rounds": (1, None),
        "c": (0, None),
        "c_low": (0, None),
        "c_high": (0, None),
        "lr": (0, None),
        "offset": (0, None),
    }
    step_cost: ClassVar[str] = "3 (forward and one backward); 1 once nothing is missing"
    needs: ClassVar[str] = "margins; the ponder form units that halt one after the other"
    threats: ClassVar[str] = "linf, l2, psnr, patch, none; presets code and paper under none only"
    follows: ClassVar[str] = (
        "Haque et al., ILFO: Adversarial Attack on Adaptive Neural Networks, CVPR 2020"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {
            "steps": 1000,
            "rounds": 1,
            "c": 1e5,
            "broadcast": True,
            "lr": 5e-4,
            "offset": 0.0,
            "box": "stretch",
            "distance": "normalised",
            "iterate": "loss",
            "verify": False,
        },
        "paper": {
            "steps": 1000,
            "rounds": 1,
            "c": 1e5,
            "lr": 5e-4,
            "offset": 0.0,
            "box": "literal",
            "iterate": "loss",
            "verify": False,
        },
        "clean": {"steps": 300, "rounds": 9, "c": 1e2, "lr": 0.01, "offset": 1e-3, "box": "tanh"},
        "ponder": {"loss": "ponder"},
    }

    steps: int | Literal["budget"] = "budget"
    rounds: int = 3
    c: float = 1e2
    c_low: float = 1e-2
    c_high: float = 1e6
    broadcast: bool = False
    lr: float = 0.02
    weighting: Literal["cost", "uniform"] = "uniform"
    space: Literal["gate", "logit"] = "gate"
    offset: float = 1e-3
    box: Literal["clamp", "tanh", "stretch", "literal"] = "tanh"
    statistics: Literal["auto", "imagenet", "cifar10"] = "auto"
    distance: Literal["pixels", "normalised", "none"] = "pixels"
    iterate: Literal["best", "first", "last", "loss"] = "best"
    verify: bool = True
    rounding: Literal["after", "inside"] = "after"
    loss: Literal["hinge", "ponder"] | str = "hinge"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """The published maps run under threat "none" only.

        The ponder loss needs units that halt one after the other.
        """
        halting = is_cumulative(target.units)
        if self.loss == "ponder" and not halting:
            return Skip(
                "the ponder loss is about halting: units that run one after the other until a "
                "score stops them, and this target has none"
            )
        refusal = self.refusal(target) or (no_joint_loss(self) if self.loss == "ponder" else None)
        return refusal or published_only(
            ilfo_box(self.box, target.image_shape, self.statistics), threat
        )

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        box = with_rounding(ilfo_box(self.box, view.image_shape, self.statistics), self.rounding)
        best = BestImage(view, images, job.threat, self.iterate, verify=self.verify)
        rule = self.step_rule(view, images)
        low, high = torch.full_like(rule.c, self.c_low), torch.full_like(rule.c, self.c_high)
        free, inside = None, job.threat.bounded
        for left in range(self.rounds, 0, -1):
            rule.reached.zero_()
            steps = (
                self.steps
                if self.steps != "budget"
                else max(int(view.left.max() - best.reserve) // (3 * left), 1)
            )
            descent = Descent(
                view,
                job,
                images,
                box,
                Adam(self.lr),
                best,
                steps,
                3,
                stop_at_ceiling=inside,
                part=(self.rounds - left, self.rounds),
            )
            end = descent.run(rule, free)
            free = end if inside else None
            won = (rule.reached > 0) & (not inside)
            high, low = torch.where(won, rule.c, high), torch.where(won, low, rule.c)
            rule.c.copy_((low * high).sqrt())
        return best.finish().clamp(0, 1)

    def step_rule(self, view: View, images: Tensor) -> DistancePlusLoss:
        """The attack's part of the loop for the clean `images`, every c at the first round's."""
        ponder = self.loss == "ponder"
        _, std = statistics_of(self.statistics, view.image_shape)
        return DistancePlusLoss(
            view,
            images,
            MarginLoss.over(
                view.units,
                self.weighting,
                self.space,
                self.offset,
                images.device,
                alarm=self.alarm,
                penalty=None if ponder else self.penalty,
            ),
            SquaredDistance.measured_in(self.distance, std, images.device),
            self.c * (len(view.units) if self.broadcast else 1),
            ponder=ponder,
        )


class DistancePlusLoss(StepRule):
    """distance + c * f, with one c an image.

    `reached` (N,) notes the images that had nothing missing at some iterate.
    """

    def __init__(
        self,
        view: View,
        clean: Tensor,
        loss: MarginLoss,
        apart: SquaredDistance,
        c: float,
        *,
        ponder: bool = False,
    ) -> None:
        self.view, self.clean, self.apart = view, clean, apart
        self.missing = (
            (lambda output: missing_ponder(output, view.units)) if ponder else loss.missing
        )
        self.c = torch.full((len(clean),), c, device=clean.device)
        self.reached = torch.zeros(len(clean), device=clean.device)

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        c, clean = self.c[rows], self.clean[rows]
        output, (gradient,) = self.view.gradients(
            lambda seen: [self.missing(seen)], point.image, rows
        )
        missing = self.missing(output)
        self.reached[rows] += missing == 0
        gradient = self.apart.gradient(point.image, clean).addcmul(gradient, c[:, None, None, None])
        return Direction(
            output, self.apart.value(point.image, clean) + c * missing, point.pull(gradient)
        )
