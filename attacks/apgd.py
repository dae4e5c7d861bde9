"""APGD on the margin hinge: parameter-free projected descent whose step halves when it stops paying
(Croce and Hein, ICML 2020).

    z       = P(x_k - eta * u(g_k)),      x_{k+1} = P(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_{k-1}))

with g the gradient of the hinge L_C on missing units (`attacks.objective`), u its sign (L_inf) or
its normalisation (L_2), P the projection onto the threat. At checkpoints 0, 22 %, 41 %, ... of the
steps the step is halved, and the run set back to its best point, when under three quarters of the
steps since the last checkpoint lowered the loss, or nothing improved at this step size.

The original maximises a classification loss; the rule for steps is kept to the letter, the loss is
the field's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Clamp, Point, ball_of, reach, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack
from attacks.objective import MarginLoss
from attacks.optimizer import Sgd
from attacks.rules import norms
from bench.api import Job, Output, Skip, Target, Threat, View
from bench.image import project

MOMENTUM = 0.75
PAYING = 0.75
"""Share of the steps between two checkpoints that must lower the loss for the step size to stay."""


@dataclass(frozen=True, kw_only=True)
class APGDMargin(GradientAttack):
    """Step-halving projected descent on the margin hinge, with restarts.

    Nothing to tune (after APGD, ICML 2020).

    Costs per step: 1 forward, and 1 backward while a gate is missing.

    The first run starts at the image, later ones anywhere in the ball. The best saved image of all
    runs is kept.

    Attributes:
        norm: of a step: "linf" signs, "l2" normalised gradients; "auto" is the threat's own ("linf"
            under a patch).
        restarts: runs in all, among which the budget is shared.
        psnr: under threat "none" the attack stays above this floor, dB: a step that is a share of a
            ball needs one.
        weighting: as in GradAuto.
        space: as in GradAuto.
        offset: as in GradAuto.
        mask_grad: as in GradAuto.
        knows: as in GradAuto.
        surrogate: as in GradAuto.
        draws: as in GradAuto.
        alarm: as in GradAuto.
        loss: as in GradAuto.
        rounding: as in GradAuto.
    """

    version: ClassVar[int] = 1
    randomised: ClassVar[bool] = True
    follows: ClassVar[str] = (
        "Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of "
        "diverse attacks, ICML 2020"
    )
    step_cost: ClassVar[str] = "3 (forward and one backward); 1 once nothing is missing"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "restarts": (1, None),
        "psnr": (1, 120),
        "offset": (0, None),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "sign": {"norm": "linf"},
        "l2": {"norm": "l2"},
    }

    norm: Literal["auto", "linf", "l2"] = "auto"
    restarts: int = 1
    psnr: float = 30.0
    weighting: Literal["cost", "uniform"] = "cost"
    space: Literal["gate", "logit"] = "logit"
    offset: float = 0.03
    rounding: Literal["after", "inside"] = "after"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """Unless its knowledge means nothing there."""
        return self.refusal(target)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        ball = ball_of(job.threat, self.psnr)
        best = BestImage(view, images, job.threat, "best", verify=True)
        random = (
            job.draw((self.restarts - 1, *images.shape[1:])).to(images)
            if self.restarts > 1
            else None
        )
        for run in range(self.restarts):
            steps = max(int(view.left.max() - best.reserve) // (3 * (self.restarts - run)), 1)
            rule = self.step_rule(view, images, ball, steps)
            box = with_rounding(Clamp(), self.rounding)
            descent = Descent(
                view,
                job,
                images,
                box,
                Sgd(1.0),
                best,
                steps,
                3,
                stop_at_ceiling=True,
                part=(run, self.restarts),
            )
            start = None
            if run > 0 and random is not None:
                spread = (2 * random[:, run - 1] - 1) * (
                    3**0.5 * rule.far if rule.norm == "l2" else rule.far
                )
                start = project(images + spread, images, ball)
            descent.run(rule, start)
        return best.finish().clamp(0, 1)

    def step_rule(self, view: View, images: Tensor, ball: Threat, steps: int) -> StepHalving:
        """One run's part of the loop."""
        norm = (
            self.norm
            if self.norm != "auto"
            else ("linf" if ball.norm in ("linf", "patch") else "l2")
        )
        loss = MarginLoss.over(
            view.units,
            self.weighting,
            self.space,
            self.offset,
            images.device,
            alarm=self.alarm,
            penalty=self.penalty,
        )
        return StepHalving(
            view, images, ball, loss, norm, reach(ball, images[0].numel(), self.psnr), steps
        )


class HingeLoss(Protocol):
    """A loss that is 0 where nothing is left to do."""

    def missing(self, output: Output) -> Tensor:
        """(M,) at least 0."""
        ...


class StepHalving(StepRule):
    """The rule of steps; every image has its own step size.

    Args:
        ball: projected onto.
        loss: descended.
        norm: of a step.
        far: the ball's reach, root mean square.
        steps: of the run.
    """

    def __init__(
        self,
        view: View,
        clean: Tensor,
        ball: Threat,
        loss: HingeLoss,
        norm: str,
        far: float,
        steps: int,
    ) -> None:
        self.view, self.clean, self.ball, self.loss, self.norm, self.far = (
            view,
            clean,
            ball,
            loss,
            norm,
            far,
        )
        self.checkpoints = checkpoints(steps)
        count = len(clean)
        self.eta = torch.full((count,), 2 * far, dtype=clean.dtype, device=clean.device)
        self.before = clean.clone()
        self.best = clean.clone()
        self.best_gradient = torch.zeros_like(clean)
        self.lowest = torch.full((count,), torch.inf, dtype=clean.dtype, device=clean.device)
        self.previous = self.lowest.clone()
        self.lowest_then, self.eta_then = self.lowest.clone(), self.eta.clone()
        self.paid = torch.zeros_like(self.lowest)
        self.gradient = torch.zeros(0)
        self.taken, self.last_checkpoint = 0, 0

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        values: list[Tensor] = []

        def one(output: Output) -> list[Tensor]:
            values.append(self.loss.missing(output))
            return values[-1:]

        output, (gradient,) = self.view.gradients(one, point.image, rows)
        self.gradient, value = (
            torch.nan_to_num(gradient, 0.0, 0.0, 0.0),
            torch.stack(values).mean(0).detach(),
        )
        self.paid[rows] += value < self.previous[rows]
        self.previous[rows] = value
        better = value < self.lowest[rows]
        chosen = better[:, None, None, None]
        self.lowest[rows] = torch.where(better, value, self.lowest[rows])
        self.best[rows] = torch.where(chosen, point.free, self.best[rows])
        self.best_gradient[rows] = torch.where(chosen, self.gradient, self.best_gradient[rows])
        return Direction(output, value, self.gradient)

    def adjust(self, step: Tensor, point: Point, rows: Tensor) -> Tensor:
        x, gradient, clean = point.free, self.gradient, self.clean[rows]
        if self.taken in self.checkpoints:
            halved = self._stalled(rows)[:, None, None, None]
            x, gradient = (
                torch.where(halved, self.best[rows], x),
                torch.where(halved, self.best_gradient[rows], gradient),
            )
        first = self.taken == 0
        self.taken += 1
        eta = self.eta[rows][:, None, None, None]
        z = project(x - eta * self._shape(gradient), clean, self.ball)
        new = (
            z
            if first
            else project(
                x + MOMENTUM * (z - x) + (1 - MOMENTUM) * (x - self.before[rows]), clean, self.ball
            )
        )
        self.before[rows] = x
        return point.free - new

    def _shape(self, gradient: Tensor) -> Tensor:
        if self.norm == "linf":
            return gradient.sign()
        length: float = gradient[0].numel() ** 0.5
        return gradient * (length / norms(gradient).clamp(min=1e-30))

    def _stalled(self, rows: Tensor) -> Tensor:
        """(M,) bool: the images whose step is halved now."""
        interval = self.taken - self.last_checkpoint
        few = self.paid[rows] < PAYING * interval
        stuck = (self.eta_then[rows] == self.eta[rows]) & (
            self.lowest_then[rows] <= self.lowest[rows]
        )
        halved = few | stuck
        self.eta_then[rows], self.lowest_then[rows] = self.eta[rows], self.lowest[rows]
        self.eta[rows] = torch.where(halved, self.eta[rows] / 2, self.eta[rows])
        self.paid[rows] = 0
        self.last_checkpoint = self.taken
        return halved


def checkpoints(steps: int) -> frozenset[int]:
    """The steps at which the step size is looked at: ceil(p_j * steps), p_1 = 0.22, p_{j+1} = p_j +
    max(p_j - p_{j-1} - 0.03, 0.06).
    """
    before, here, found = 0.0, 0.22, []
    while here < 1:
        found.append(ceil(round(here * steps, 9)))
        before, here = here, here + max(here - before - 0.03, 0.06)
    return frozenset(found)
