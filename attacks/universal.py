"""One perturbation for all images, fitted on images that are never scored.

    minimise over v    sum over fit images of L(x + v),      v inside the ball,

in mini-batches, by sign or normalised steps. L is the margin hinge, or DeepSloth's loss over exits,
whose universal attack (Hong et al., ICLR 2021) this is under the preset `deepsloth`. At test time
nothing is evaluated: v is added, clipped, and saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor

from attacks.box import ball_of, reach
from attacks.deepsloth import slowdown_loss
from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.objective import MarginLoss
from attacks.penalties import parse_penalty
from bench.api import BudgetSpent, Job, Losses, Skip, Target, Threat, View
from bench.image import project


class Fitting(Protocol):
    """An attack that fits: what its loss is made from."""

    @property
    def loss(self) -> str: ...
    @property
    def losses(self) -> tuple[str, ...]: ...
    @property
    def offset(self) -> float: ...
    @property
    def alarm(self) -> Literal["raise", "avoid"]: ...


@dataclass(frozen=True, kw_only=True)
class Universal(GradientAttack):
    """One perturbation for all images, fitted on other images of the data set.

    Costs: the fit 3 forward-equivalents an image and pass; an attacked image nothing.

    Preset `deepsloth`: the published universal L_inf attack on exits: eps 1/32 (inside the threat
    as well), steps of 0.005, 20 passes over the first batch of the training data only, without
    decay. The released code's batch is not restated; here it is the fit split.

    Attributes:
        loss: "hinge", or another penalty, on the margins of missing units, weighed by compute
            share; "exits", "margins" and "auto" as in DeepSloth.
        passes: over the fit images at most, or "budget": as many as the fit's budget pays for.
        batch: fit images a step; 0 takes all.
        lr: of a step as a share of the largest change the threat admits; or, with lr_per = "pixel",
            in pixels.
        schedule: of lr.
        radius: of an L_inf ball of its own, in [0,1] pixels; 0 for the threat alone.
        psnr: under threat "none" the perturbation stays above this floor, dB.
        offset: as in GradAuto.
        mask_grad: as in GradAuto.
        knows: as in GradAuto.
        surrogate: as in GradAuto.
        draws: as in GradAuto.
        alarm: as in GradAuto.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[tuple[str, ...]] = ("auto", "exits", "margins")
    fits: ClassVar[bool] = True
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Moosavi-Dezfooli et al., Universal adversarial perturbations, CVPR 2017; "
        "Hong et al. (DeepSloth), ICLR 2021"
    )
    step_cost: ClassVar[str] = "3 an image of the fit split and pass; 0 for an attacked image"
    needs: ClassVar[str] = "margins, or logits of exits; a fit split"
    threats: ClassVar[str] = "linf, l2, psnr, none"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "passes": (1, None),
        "batch": (0, None),
        "lr": (0, None),
        "radius": (0, 1),
        "psnr": (1, 120),
        "offset": (0, None),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepsloth": {
            "loss": "exits",
            "passes": 20,
            "batch": 0,
            "lr": 0.005,
            "lr_per": "pixel",
            "schedule": "constant",
            "radius": 0.03125,
        },
    }

    loss: Literal["hinge", "auto", "exits", "margins"] | str = "hinge"
    passes: int | Literal["budget"] = "budget"
    batch: int = 64
    lr: float = 0.2
    lr_per: Literal["reach", "pixel"] = "reach"
    schedule: Literal["constant", "cosine"] = "cosine"
    radius: float = 0.0
    psnr: float = 30.0
    offset: float = 0.03

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """A patch is another attack; the loss over exits needs exits."""
        if threat.norm == "patch":
            return Skip("it changes the whole image; under a patch use the attack `patch`")
        if self.loss == "exits" and "exit" not in target.units.kind:
            return Skip("its loss is about exits, and this target has none")
        return self.refusal(target) or (no_joint_loss(self) if self.loss in self.losses else None)

    def fit(self, view: View, images: Tensor, job: Job) -> dict[str, Tensor]:
        view, ball = self.seen_by(view), ball_of(job.threat, self.psnr)
        far = reach(ball, images[0].numel(), self.psnr)
        lr = self.lr * far if self.lr_per == "reach" else self.lr
        batch = self.batch or len(images)
        affordable = int(view.left.min()) // 3
        passes = affordable if self.passes == "budget" else min(self.passes, affordable)
        parts = torch.arange(len(images), device=images.device).split(batch)
        delta, steps = torch.zeros_like(images[:1]), max(passes * len(parts), 1)
        losses = fit_losses(self, view)
        try:
            for step in range(passes * len(parts)):
                rows = parts[step % len(parts)]
                (gradient,) = view.gradients(losses, (images[rows] + delta).clamp(0, 1), rows)[1]
                share = torch.tensor(step / steps)
                factor = (
                    1.0
                    if self.schedule == "constant"
                    else 0.01 + 0.99 * 0.5 * (1 + float((torch.pi * share).cos()))
                )
                delta = self.bounded(
                    delta - lr * factor * shaped(gradient.sum(0, keepdim=True), ball), ball
                )
                job.progress(step + 1, steps)
        except BudgetSpent:
            pass
        return {"delta": delta[0]}

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        delta = job.fitted.get("delta")
        if delta is None:
            return images.clone()
        return project(images + delta, images, job.threat)

    def bounded(self, delta: Tensor, ball: Threat) -> Tensor:
        """A perturbation (1, C, H, W) drawn back onto the ball around nothing, and its own."""
        bound = ball.bound(delta.numel())
        assert bound is not None
        if self.radius:
            delta = delta.clamp(-self.radius, self.radius)
        if ball.norm == "linf":
            return delta.clamp(-bound / 255, bound / 255)
        radius: float = bound**0.5 / 255
        return delta * min(1.0, radius / max(float(delta.norm()), 1e-30))


def shaped(gradient: Tensor, ball: Threat) -> Tensor:
    """A gradient (1, C, H, W) as a step of root mean square 1: its sign under L_inf, itself
    rescaled elsewhere; zeros stay.
    """
    if ball.norm == "linf":
        return gradient.sign()
    scale: Tensor = gradient.numel() ** 0.5 / gradient.norm().clamp(min=1e-30)
    return gradient * scale


def fit_losses(attack: Fitting, view: View) -> Losses:
    """The loss of a fit as `View.gradients` takes it: a penalty on missing units, or one of
    DeepSloth's.
    """
    if attack.loss not in attack.losses:
        loss = MarginLoss.over(
            view.units,
            "cost",
            "logit",
            attack.offset,
            torch.device("cpu"),
            alarm=attack.alarm,
            penalty=parse_penalty(attack.loss),
        )
        return lambda output: [loss.to(output.margins.device).missing(output)]
    found = slowdown_loss(attack.loss, view.units)
    return lambda output: [found(output)]
