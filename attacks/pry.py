"""Pry: steps of one length on a concave loss, on iterates as they would be saved.

    minimize    L(x) = sum_j w_j log(1 + max(o - m_j(x), 0) / T)           inside the ball
    z_k         = P(x_k - eta_k u(g_k))
    x_{k+1}     = P(x_k + beta (z_k - x_k) + (1 - beta) (x_k - x_{k-1}))

g_k is the gradient of L at x_k, u its normalization to root mean square 1 (its sign under L_inf and
patch), P the projection onto the ball. eta falls as a cosine from `lr` to `lr_end` times the reach
of the ball (the root mean square of the largest change that it admits). The momentum is APGD's
(Croce and Hein, ICML 2020); the steps do not depend on the loss's progress.

Why a logarithm: inside a small ball most missing units cannot be opened. A hinge spends the
gradient on all of them alike; the logarithm gives unit j the weight w_j / (T + gap_j), so that
the step works on the units that are nearest to their thresholds, relative to the gap and so
whatever the scale of a gate, and turns to the next once these are open. An opened unit that falls
back by T is pushed as hard as all others together, which keeps it open. See `attacks.penalties`.

The weights follow the iterate: w_j = lambda_j h_j. lambda_j is the share of the MACs that turning
the decision on unit j alone would move at x_k (`View.marginal_macs`): where the count is no plain
sum, a unit's own cost says little of it. h_j falls once the unit is too far away to be opened at
the speed at which its margin moves (`attacks.outlook`), so that the step is left to the others.
Both are constants of the gradient.

Why rounding inside: an iterate that is evaluated as it would be saved needs no second evaluation
before it is kept, so that the whole budget goes into steps, and the loss is that of the saved
image. The gradient passes straight through the rounding, and the free variable is not rounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Clamp, Point, ball_of, reach, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack
from attacks.objective import MarginLoss
from attacks.optimizer import Sgd
from attacks.outlook import Outlook
from attacks.rules import norms
from bench.api import Job, Output, Skip, Target, Threat, View
from bench.image import project


@dataclass(frozen=True, kw_only=True)
class Pry(GradientAttack):
    """Opens the nearest units first: a concave loss and steps of one length inside the ball.

    Costs per step: 1 forward, and 1 backward while a unit is missing.

    Preset `concave` is the loss and the steps alone: a unit weighs its own cost, nothing is given
    up, and iterates are rounded when they are verified.

    Attributes:
        loss: see `attacks.gradient_attack.GradientAttack`; the offset keeps opened units open.
        lr: length of the first step, as a share of the ball's reach.
        lr_end: length of the last step, as a share of the same.
        momentum: beta, the share of a step that is the gradient's.
        worth: what a unit weighs: "cost" its own MACs, always; "marginal" the MACs that opening or
            closing it alone would move now.
        give_up: how many radii of the ball a unit may lie beyond its threshold, at the speed at
            which its margin moves, before its weight is halved; 0 gives up nothing.
        rounding: every iterate is evaluated as it would be saved ("inside"), or only those that
            are verified ("after"), as in GradAuto.
        verify: images are kept by what they execute as saved; see `attacks.best_image`.
        psnr: under threat "none" the attack stays above this floor, dB.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        alarm: see `attacks.gradient_attack.GradientAttack`.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    version: ClassVar[int] = 2
    follows: ClassVar[str] = (
        "gatebench (docs/attacks/pry.md); momentum of APGD, Croce and Hein, ICML 2020"
    )
    step_cost: ClassVar[str] = "3 (forward and one backward); 1 once nothing is missing"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "lr": (0, None),
        "lr_end": (0, None),
        "momentum": (0, 1),
        "give_up": (0, None),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "concave": {"rounding": "after", "worth": "cost", "give_up": 0.0}
    }

    loss: str = "log(temperature=0.001, offset=0.0005)"
    lr: float = 0.5
    lr_end: float = 0.02
    momentum: float = 0.75
    worth: Literal["marginal", "cost"] = "marginal"
    give_up: float = 2.0
    rounding: Literal["after", "inside"] = "inside"
    verify: bool = True
    psnr: float = 30.0

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """Unless its knowledge means nothing there."""
        return self.refusal(target)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        best = BestImage(view, images, job.threat, "best", verify=self.verify)
        rule = self.step_rule(view, images, ball_of(job.threat, self.psnr))
        descent = Descent(
            view=view,
            job=job,
            clean=images,
            box=with_rounding(Clamp(), self.rounding),
            optimizer=Sgd(1.0),
            best=best,
            steps="budget",
            cost=3,
            stop_at_ceiling=True,
        )
        begin = self.beginning(images, job)
        if begin is not None:
            rule.before = begin.clone()
        descent.run(rule, begin)
        return best.finish().clamp(0, 1)

    def beginning(self, images: Tensor, job: Job) -> Tensor | None:
        """(N, C, H, W) where the search begins; None at the clean images."""
        return None

    def step_rule(self, view: View, images: Tensor, ball: Threat) -> CosineSteps:
        """The attack's part of the loop for the clean `images` of a view."""
        loss = MarginLoss.over(
            view.units,
            "cost",
            "logit",
            0.0,
            images.device,
            alarm=self.alarm,
            penalty=self.penalty,
        )
        return CosineSteps(self, view, images, loss, ball)


class CosineSteps(StepRule):
    """Steps of one length, shortened by a cosine, with APGD's momentum.

    Args:
        attack: whose parameters are followed.
        view: of the batch.
        clean: (N, C, H, W).
        loss: descended.
        ball: projected onto.
    """

    def __init__(
        self, attack: Pry, view: View, clean: Tensor, loss: MarginLoss, ball: Threat
    ) -> None:
        self.attack, self.view, self.clean, self.loss, self.ball = attack, view, clean, loss, ball
        self.reach = reach(ball, clean[0].numel(), attack.psnr)
        self.signs = ball.norm in ("linf", "patch")
        self.before = clean.clone()
        self.outlook = Outlook(len(clean), self.reach * sqrt(clean[0].numel()))
        self.gradient = clean[:0]
        self.share = clean[:0, 0, 0, 0]

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        values: list[Tensor] = []

        def one(output: Output) -> list[Tensor]:
            values.append(self.loss.missing(output, self._factor(output.detach(), point, rows)))
            return values[-1:]

        output, (gradient,) = self.view.gradients(one, point.image, rows)
        if self.attack.give_up:
            self.outlook.note(point.image, self.loss.margins(output), rows)
        self.gradient, self.share = torch.nan_to_num(gradient, 0.0, 0.0, 0.0), share
        return Direction(output, torch.stack(values).mean(0).detach(), self.gradient)

    def adjust(self, step: Tensor, point: Point, rows: Tensor) -> Tensor:
        x, clean, beta = point.free, self.clean[rows], self.attack.momentum
        move = self.length()[:, None, None, None] * self.direction()
        z = project(x - move, clean, self.ball)
        new = project(x + beta * (z - x) + (1 - beta) * (x - self.before[rows]), clean, self.ball)
        self.before[rows] = x
        return x - new

    def _factor(self, output: Output, point: Point, rows: Tensor) -> Tensor | None:
        """(M, U) what the units' weights are multiplied by; None where nothing changes them."""
        factor = None
        if self.attack.worth == "marginal":
            cost = self.view.units.column("cost", output.decisions.device).clamp(min=1)
            factor = self.view.marginal_macs(output.decisions) / cost
        if self.attack.give_up:
            gap, margins = self.loss.gaps(output), self.loss.margins(output)
            hope = self.outlook.hope(gap, point.image, margins, rows, self.attack.give_up)
            factor = hope if factor is None else factor * hope
        return factor

    def length(self) -> Tensor:
        """(M,) root mean square of the steps to take now, in pixels."""
        lr, end = self.attack.lr, self.attack.lr_end
        fall = 0.5 * (1 + (pi * self.share.clamp(0, 1)).cos())
        return (end + (lr - end) * fall) * self.reach

    def direction(self) -> Tensor:
        """(M, C, H, W) the gradient's sign, or the gradient at root mean square 1; zeros stay."""
        if self.signs:
            return self.gradient.sign()
        values = self.gradient[0].numel()
        return self.gradient * (sqrt(values) / norms(self.gradient).clamp(min=1e-30))
