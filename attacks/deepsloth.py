"""DeepSloth (Hong et al., ICLR 2021): no exit may be sure, so nobody leaves early.

    minimise  sum_{k < last} CE(uniform, softmax(logits of exit k))

over a ball. Carried to the other families through margins: every unit's decision is a two-way
classifier, and the class wanted is "runs", so the loss is sum_j w_j log(1 + exp(-logit margin_j)),
which, unlike a hinge, goes on pushing behind the threshold.

The stopping rule of its victims, thresholds and exits is the target's affair (`targets.sdn`). The
original's images are in [0,1] and its networks normalise nothing; here as everywhere distances are
in [0,1] and targets normalise inside.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Box, Clamp, Point, reach, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.objective import MarginLoss, opening, uniform_exits
from attacks.optimizer import OPTIMIZERS
from attacks.penalties import parse_penalty
from attacks.rules import norms
from bench.api import Job, Output, Skip, Target, Threat, Units, View


@dataclass(frozen=True, kw_only=True)
class DeepSloth(GradientAttack):
    """Makes every exit unsure and every other unit's decision to run sure (DeepSloth, ICLR 2021).

    Costs per step: 1 forward, 1 backward; the loss is never 0, so an image leaves only when its
    kept image executes everything.

    Presets: `linf` and `l2` are the published settings for single images, in their own balls
    (inside the threat as well), last iterate kept. `linf`: eps 1/32, steps of 0.002, 30 of them,
    from a uniform start within a step. `l2`: from a random direction of norm 1, gradients shortened
    to norm 1, learning rate 1 falling as a cosine, 550 steps; the radius shrinks by a tenth every
    50 and ends at 0.349. The published loss of `l2` is a mean over the batch, so that its step
    depends on the batch; here it is per image. The universal form is `universal:deepsloth`. The
    bare name takes shrinking steps of the threat's own shape and keeps the best.

    Attributes:
        loss: "exits" as published; "margins" as above, weighed by compute share; a penalty of
            `attacks.penalties` on missing units, written as text; "auto" is "exits"
            where the target has exits.
        steps: evaluations at most, or "budget".
        optimiser: "auto" is sign steps under linf and patch, normalised ones elsewhere; "capped"
            shortens gradients to norm 1.
        lr: of a step, in pixels; or, with lr_per = "reach", as a share of the largest change the
            threat admits (root mean square).
        schedule: of lr.
        start: "image"; "uniform" within one step of it; "sphere" a random direction of the ball's
            own radius.
        ball: an own ball ("linf" or "l2") inside the threat, of this radius in [0,1] pixels; "none"
            for the threat alone.
        radius: an own ball ("linf" or "l2") inside the threat, of this radius in [0,1] pixels;
            "none" for the threat alone.
        shrink: the radius is multiplied by `shrink` after every so many steps.
        shrink_every: the radius is multiplied by `shrink` after every so many steps.
        psnr: under threat "none" without an own ball, the floor whose reach sets the steps.
        iterate: as in GradAuto.
        verify: as in GradAuto.
        mask_grad: as in GradAuto.
        knows: as in GradAuto.
        surrogate: as in GradAuto.
        draws: as in GradAuto.
        rounding: as in GradAuto.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[tuple[str, ...]] = ("auto", "exits", "margins")
    version: ClassVar[int] = 1
    randomised: ClassVar[bool] = True
    follows: ClassVar[str] = (
        "Hong et al., A Panda? No, It's a Sloth: Slowdown Attacks on "
        "Adaptive Multi-Exit Neural Network Inference, ICLR 2021"
    )
    step_cost: ClassVar[str] = "3 (forward and one backward)"
    needs: ClassVar[str] = "logits of exits, or margins (loss = margins)"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "lr": (0, None),
        "radius": (0, None),
        "shrink": (0, 1),
        "shrink_every": (1, None),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "linf": {
            "loss": "exits",
            "steps": 30,
            "optimiser": "sign",
            "lr": 0.002,
            "lr_per": "pixel",
            "schedule": "constant",
            "start": "uniform",
            "ball": "linf",
            "radius": 0.03125,
            "iterate": "last",
            "verify": False,
        },
        "l2": {
            "loss": "exits",
            "steps": 550,
            "optimiser": "capped",
            "lr": 1.0,
            "lr_per": "pixel",
            "schedule": "cosine",
            "start": "sphere",
            "ball": "l2",
            "radius": 1.0,
            "shrink": 0.9,
            "shrink_every": 50,
            "iterate": "last",
            "verify": False,
        },
        "margins": {"loss": "margins"},
    }

    loss: Literal["auto", "exits", "margins"] | str = "auto"
    steps: int | Literal["budget"] = "budget"
    optimiser: Literal["auto", "sign", "normalised", "capped"] = "auto"
    lr: float = 0.5
    lr_per: Literal["reach", "pixel"] = "reach"
    schedule: Literal["constant", "cosine"] = "cosine"
    start: Literal["image", "uniform", "sphere"] = "image"
    ball: Literal["none", "linf", "l2"] = "none"
    radius: float = 0.0
    shrink: float = 1.0
    shrink_every: int = 50
    psnr: float = 35.0
    iterate: Literal["best", "first", "last", "loss"] = "best"
    verify: bool = True
    rounding: Literal["after", "inside"] = "after"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """The published loss needs exits."""
        if self.loss == "exits" and not has_exits(target.units):
            return Skip(
                "its loss is about exits, and this target has none; "
                'loss = "margins" carries the idea to other units'
            )
        return self.refusal(target) or no_joint_loss(self)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        best = BestImage(view, images, job.threat, self.iterate, verify=self.verify)
        far = reach(job.threat, images[0].numel(), self.psnr)
        lr = self.lr * far if self.lr_per == "reach" else self.lr
        sharp = self.optimiser == "sign" or (
            self.optimiser == "auto" and job.threat.norm in ("linf", "patch")
        )
        name = self.optimiser if self.optimiser != "auto" else ("sign" if sharp else "normalised")
        ball: Box = (
            Clamp()
            if self.ball == "none"
            else OwnBall(self.ball, self.radius, self.shrink, self.shrink_every)
        )
        box = with_rounding(ball, self.rounding)
        descent = Descent(
            view=view,
            job=job,
            clean=images,
            box=box,
            optimizer=OPTIMIZERS[name](lr),
            best=best,
            steps=self.steps,
            cost=3,
            schedule=self.schedule,
            stop_at_ceiling=self.iterate != "last",
        )
        descent.run(
            Slowdown(view, slowdown_loss(self.loss, view.units)), self._start(job, images, lr)
        )
        return best.finish().clamp(0, 1)

    def _start(self, job: Job, images: Tensor, lr: float) -> Tensor | None:
        if self.start == "image":
            return None
        if self.start == "uniform":
            return images + lr * (2 * job.draw(images.shape[1:]).to(images) - 1)
        direction = job.draw(images.shape[1:], normal=True).to(images)
        return images + direction * (self.radius / norms(direction))


class Slowdown(StepRule):
    """The gradient of one loss, and nothing else."""

    def __init__(self, view: View, loss: Callable[[Output], Tensor]) -> None:
        self.view, self.loss = view, loss

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        values: list[Tensor] = []

        def one(output: Output) -> list[Tensor]:
            values.append(self.loss(output))
            return values[-1:]

        output, (gradient,) = self.view.gradients(one, point.image, rows)
        return Direction(
            output,
            torch.stack(values).mean(0).detach(),
            point.pull(torch.nan_to_num(gradient, 0.0, 0.0, 0.0)),
        )


class OwnBall(Box):
    """Pixels inside a ball of the attack's own that may shrink, and inside the threat.

    Args:
        norm: "linf" or "l2".
        radius: in [0,1] pixels.
        shrink: the radius is multiplied by `shrink` after every so many steps.
        every: the radius is multiplied by `shrink` after every so many steps.
    """

    def __init__(self, norm: str, radius: float, shrink: float, every: int) -> None:
        self.norm, self.radius, self.shrink, self.every = norm, radius, shrink, every
        self.steps = -1  # the start is placed too

    def start(self, clean: Tensor) -> Tensor:
        return clean

    def place(self, free: Tensor, clean: Tensor, threat: Threat) -> Point:
        self.steps += 1
        radius = self.radius * self.shrink ** (self.steps // self.every)
        delta = free - clean
        shorter = delta * (radius / norms(delta).clamp(min=1e-30)).clamp(max=1)
        delta = delta.clamp(-radius, radius) if self.norm == "linf" else shorter
        return Clamp().place(clean + delta, clean, threat)


@dataclass(frozen=True)
class SlowdownLoss:
    """(M,) the loss of an output: over exits where `weight` is None, else over all units."""

    weight: Tensor | None

    def __call__(self, output: Output) -> Tensor:
        return (
            uniform_exits(output)
            if self.weight is None
            else opening(output, self.weight.to(output.logit_margins, non_blocking=True))
        )


def slowdown_loss(name: str, units: Units) -> Callable[[Output], Tensor]:
    """The loss by name.

    "auto" is that over exits where exits are all there is to open, so that a monitor is not
    overlooked.
    """
    if name == "exits" or (name == "auto" and set(units.kind) == {"exit"}):
        return SlowdownLoss(None)
    if name in ("auto", "margins"):
        cost = units.cost.to(torch.float64)
        return SlowdownLoss((cost / cost.sum().clamp(min=1)).to(torch.float32))
    penalty = parse_penalty(name)
    loss = MarginLoss.over(units, "cost", "logit", 0.0, torch.device("cpu"), penalty=penalty)
    return lambda output: loss.to(output.margins.device).missing(output)


def has_exits(units: Units) -> bool:
    """Whether units are the stages behind exits."""
    return "exit" in units.kind
