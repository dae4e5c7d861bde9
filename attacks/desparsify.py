"""DeSparsify (Yehezkel et al., NeurIPS 2024): all gate values to their upper ends, at an unchanged
answer.

    minimise  mean_j (high_j - G_j)^2 + 8e-4 CE(logits, clean prediction) / K

by sign steps in an L_inf ball. Written for token halting (the sum of a token's scores to 0) and
token gates (its keep score to 1); the loss on sampled tokens (ATS), which have no gate value, is
not here. The universal and the class-universal form are presets of `universal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Box, Clamp, Point, reach, with_rounding
from attacks.deepsloth import OwnBall
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.optimizer import OPTIMIZERS
from attacks.token_losses import desparsify, is_bounded
from bench.api import Job, Output, Skip, Target, Threat, View


@dataclass(frozen=True, kw_only=True)
class DeSparsify(GradientAttack):
    """Brings every gate value to its upper end at an unchanged answer (DeSparsify, NeurIPS 2024).

    Costs per step: 1 forward, 1 backward; the loss is never 0, so an image leaves only when its
    kept image executes everything.

    Preset `paper`: the published setting for single images: sign steps in an L_inf ball of 16/255
    (inside the threat as well), steps from a tenth of the radius to 0 on a cosine, last iterate
    kept. The number of steps is not in the paper's main text; here it is what the budget pays for.
    The bare name takes steps of the threat's own shape and keeps the best.

    Attributes:
        steps: evaluations at most, or "budget".
        lr: of the first step, as a share of the largest change that the threat, or the own ball,
            admits.
        radius: of an L_inf ball of its own, in [0,1] pixels; 0 for the threat alone.
        psnr: under threat "none" without an own ball, the floor whose reach sets the steps.
        iterate: as in GradAuto.
        verify: as in GradAuto.
        rounding: as in GradAuto.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        loss: the published one.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[tuple[str, ...]] = ("desparsify",)
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Yehezkel et al., DeSparsify: Adversarial Attack Against Token Sparsification Mechanisms, "
        "NeurIPS 2024"
    )
    step_cost: ClassVar[str] = "3 (forward and one backward)"
    needs: ClassVar[str] = "gate values with an upper bound"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "lr": (0, None),
        "radius": (0, 1),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {
            "radius": 0.06274509803921569,
            "lr": 0.1,
            "iterate": "last",
            "verify": False,
        },
    }

    loss: Literal["desparsify"] = "desparsify"
    steps: int | Literal["budget"] = "budget"
    lr: float = 0.5
    radius: float = 0.0
    psnr: float = 35.0
    iterate: Literal["best", "first", "last", "loss"] = "best"
    verify: bool = True
    rounding: Literal["after", "inside"] = "after"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """Every gate value needs an upper bound."""
        if not is_bounded(target.units):
            return Skip(
                "its loss brings gate values to their upper bounds, and some of this target's have "
                "none"
            )
        return self.refusal(target) or no_joint_loss(self)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        best = BestImage(view, images, job.threat, self.iterate, verify=self.verify)
        far = self.radius or reach(job.threat, images[0].numel(), self.psnr)
        sharp = self.radius > 0 or job.threat.norm in ("linf", "patch")
        ball: Box = OwnBall("linf", self.radius, 1.0, 1) if self.radius else Clamp()
        descent = Descent(
            view=view,
            job=job,
            clean=images,
            box=with_rounding(ball, self.rounding),
            optimizer=OPTIMIZERS["sign" if sharp else "normalised"](self.lr * far),
            best=best,
            steps=self.steps,
            cost=3,
            schedule="cosine",
            stop_at_ceiling=self.iterate != "last",
        )
        descent.run(OpenAtAnswer(view, labels))
        return best.finish().clamp(0, 1)


class OpenAtAnswer(StepRule):
    """The gradient of DeSparsify's loss, with the clean predictions `labels` (N,)."""

    def __init__(self, view: View, labels: Tensor) -> None:
        self.view, self.labels = view, labels

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        values: list[Tensor] = []

        def one(output: Output) -> list[Tensor]:
            values.append(desparsify(output, self.view.units, self.labels[rows]))
            return values[-1:]

        output, (gradient,) = self.view.gradients(one, point.image, rows)
        return Direction(
            output,
            torch.stack(values).mean(0).detach(),
            point.pull(torch.nan_to_num(gradient, 0.0, 0.0, 0.0)),
        )
