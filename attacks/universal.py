"""One perturbation for all images, fitted on images that are never scored.

    minimise over v    sum over fit images of L(x + v),      v inside the ball,

in mini-batches, by sign or normalised steps. L is the margin hinge, or DeepSloth's loss over exits,
whose universal attack (Hong et al., ICLR 2021) this is under the preset `deepsloth`, or one that
was written for tokens (`attacks.token_losses`). At test time nothing is evaluated: v is added,
clipped, and saved. With one perturbation a class, the target's own clean prediction says which.
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
from attacks.token_losses import desparsify, is_bounded, slowformer
from bench.api import BudgetSpent, Job, Losses, Skip, Target, Threat, Units, View
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

    Presets `desparsify` and `desparsify-class`: the universal and class-universal attacks of
    DeSparsify in its L_inf ball of 16/255 (inside the threat as well), steps from a tenth of the
    radius to 0 on a cosine; one more forward an image of the fit split tells its prediction.

    Attributes:
        loss: "hinge", or another penalty, on the margins of missing units, weighed by compute
            share; "exits", "margins" and "auto" as in DeepSloth; "desparsify" and "slowformer" of
            `attacks.token_losses`.
        per: one perturbation for "all" images, or one for each "class" that the target predicts on
            the clean image; a class that no fit image has is left alone.
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

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("per",)
    losses: ClassVar[tuple[str, ...]] = ("auto", "exits", "margins", "desparsify", "slowformer")
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
        "desparsify": {
            "loss": "desparsify",
            "lr": 0.006274509803921569,
            "lr_per": "pixel",
            "radius": 0.06274509803921569,
        },
        "desparsify-class": {
            "loss": "desparsify",
            "per": "class",
            "lr": 0.006274509803921569,
            "lr_per": "pixel",
            "radius": 0.06274509803921569,
        },
    }

    loss: Literal["hinge", "auto", "exits", "margins", "desparsify", "slowformer"] | str = "hinge"
    per: Literal["all", "class"] = "all"
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
        return (
            loss_refusal(self.loss, target.units)
            or self.refusal(target)
            or (no_joint_loss(self) if self.loss in self.losses else None)
        )

    def fit(self, view: View, images: Tensor, job: Job) -> dict[str, Tensor]:
        view, ball = self.seen_by(view), ball_of(job.threat, self.psnr)
        far = reach(ball, images[0].numel(), self.psnr)
        lr = self.lr * far if self.lr_per == "reach" else self.lr
        batch = self.batch or len(images)
        labels = predictions(self, view, images)
        places = labels if self.per == "class" else torch.zeros_like(labels)
        count = view.classes if self.per == "class" else 1
        affordable = int(view.left.min()) // 3
        passes = affordable if self.passes == "budget" else min(self.passes, affordable)
        parts = torch.arange(len(images), device=images.device).split(batch)
        delta = images.new_zeros(count, *images.shape[1:])
        steps = max(passes * len(parts), 1)
        try:
            for step in range(passes * len(parts)):
                rows = parts[step % len(parts)]
                losses = fit_losses(self, view, labels[rows])
                moved = (images[rows] + delta[places[rows]]).clamp(0, 1)
                (gradient,) = view.gradients(losses, moved, rows)[1]
                share = torch.tensor(step / steps)
                factor = (
                    1.0
                    if self.schedule == "constant"
                    else 0.01 + 0.99 * 0.5 * (1 + float((torch.pi * share).cos()))
                )
                delta = self._stepped(delta, gradient, places[rows], lr * factor, ball)
                job.progress(step + 1, steps)
        except BudgetSpent:
            pass
        return {"delta": delta if self.per == "class" else delta[0]}

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        delta = job.fitted.get("delta")
        if delta is None:
            return images.clone()
        own = delta[labels] if self.per == "class" else delta
        return project(images + own, images, job.threat)

    def _stepped(
        self, delta: Tensor, gradient: Tensor, places: Tensor, length: float, ball: Threat
    ) -> Tensor:
        """The perturbations (G, C, H, W) after a step of root mean square `length`.

        Args:
            delta: the perturbations.
            gradient: (M, C, H, W), of the images of the step.
            places: (M,) which perturbation each image has.
            length: in [0,1] pixels.
            ball: that perturbations stay in.
        """
        moved = []
        for place, own in enumerate(delta.split(1)):
            total = gradient[places == place] if len(delta) > 1 else gradient
            step = shaped(total.sum(0, keepdim=True), ball)
            moved.append(self.bounded(own - length * step, ball))
        return torch.cat(moved)

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


def predictions(attack: Fitting, view: View, images: Tensor) -> Tensor:
    """(N,) the target's own predictions of the fit images, where the attack asks for them.

    Costs 1 an image; zeros, free of charge, for attacks that do not look at predictions, and where
    nothing is left to pay with.
    """
    rows = torch.arange(len(images), device=images.device)
    asks = attack.loss == "desparsify" or getattr(attack, "per", "all") == "class"
    if not asks or int(view.left.min()) < 1:
        return torch.zeros_like(rows)
    return torch.cat([view(images[some], some).logits.argmax(1) for some in rows.split(64)])


def loss_refusal(loss: str, units: Units) -> Skip | None:
    """Why the loss of a fit means nothing on a target; None if it does."""
    if loss == "exits" and "exit" not in units.kind:
        return Skip("its loss is about exits, and this target has none")
    if loss == "desparsify" and not is_bounded(units):
        return Skip("its loss is about gate values with an upper bound, and some have none")
    return None


def fit_losses(attack: Fitting, view: View, labels: Tensor | None = None) -> Losses:
    """The loss of a fit as `View.gradients` takes it: a penalty on missing units, one of
    DeepSloth's, or one for tokens.

    Args:
        attack: whose loss it is.
        view: of the target.
        labels: (M,) the clean predictions of the images that are evaluated; for "desparsify".
    """
    units = view.units
    if attack.loss == "desparsify":
        assert labels is not None
        return lambda output: [desparsify(output, units, labels)]
    if attack.loss == "slowformer":
        return lambda output: [slowformer(output, units)]
    if attack.loss not in attack.losses:
        loss = MarginLoss.over(
            units,
            "cost",
            "logit",
            attack.offset,
            torch.device("cpu"),
            alarm=attack.alarm,
            penalty=parse_penalty(attack.loss),
        )
        return lambda output: [loss.to(output.margins.device).missing(output)]
    found = slowdown_loss(attack.loss, units)
    return lambda output: [found(output)]
