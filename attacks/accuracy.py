"""Accuracy under a cap: where cost cannot rise any further, an attacker may still spoil the answer.

No energy attack: the loss is the margin by which the clean prediction leads (Carlini and Wagner,
2017),

    max(z_y - max_{k != y} z_k + confidence, 0),

descended by the steps of APGD (Croce and Hein, ICML 2020). Recovery says nothing about it;
adversarial accuracy does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.apgd import StepHalving
from attacks.best_image import BestImage
from attacks.box import Clamp, Point, ball_of, reach, with_rounding
from attacks.descent import Descent, Direction
from attacks.gradient_attack import GradientAttack
from attacks.optimizer import Sgd
from attacks.penalties import Penalty
from bench.api import Job, Output, Skip, Target, Threat, View


@dataclass(frozen=True, kw_only=True)
class Accuracy(GradientAttack):
    """Changes the prediction, whatever the cost: a control, for targets whose cost is capped.

    Costs per step: 1 forward, and 1 backward while the prediction stands.

    Attributes:
        confidence: by how much another class is to lead, in logits.
        psnr: under threat "none" the attack stays above this floor, dB.
        rounding: images are rounded "after" the loop has found them, or every iterate "inside" it.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        loss: the penalty of the lead; with one number to bring down, it changes the value, not the
            direction of a step.
    """

    control: ClassVar[bool] = True
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Carlini and Wagner, S&P 2017 (loss); Croce and Hein, ICML 2020 (steps)"
    )
    needs: ClassVar[str] = "logits"
    step_cost: ClassVar[str] = "3 (forward and one backward); 1 once the prediction has changed"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "confidence": (0, None),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    confidence: float = 0.5
    psnr: float = 30.0
    rounding: Literal["after", "inside"] = "inside"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """Needs two classes at least."""
        if target.classes < 2:
            return Skip("there is no other class to lead to")
        return self.refusal(target)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        view = self.seen_by(view)
        ball = ball_of(job.threat, self.psnr)
        best = BestImage(view, images, job.threat, "loss", verify=False)
        steps = max(int(view.left.max()) // 3, 1)
        norm = "linf" if ball.norm in ("linf", "patch") else "l2"
        rule = _AwayFromPrediction(
            view,
            images,
            ball,
            norm,
            reach(ball, images[0].numel(), self.psnr),
            steps,
            labels,
            self.confidence,
            self.penalty,
        )
        Descent(
            view, job, images, with_rounding(Clamp(), self.rounding), Sgd(1.0), best, steps, 3
        ).run(rule)
        return best.finish().clamp(0, 1)


class _Lead:
    """The loss: by how much the clean prediction still leads."""

    def __init__(self, labels: Tensor, confidence: float, penalty: Penalty) -> None:
        self.labels, self.confidence, self.penalty = labels, confidence, penalty
        self.rows = torch.arange(len(labels))

    def missing(self, output: Output) -> Tensor:
        """(M,) at least 0, and 0 once another class leads by `confidence`."""
        own = self.labels[self.rows][:, None]
        others = output.logits.scatter(1, own, -torch.inf).amax(1)
        lead = torch.relu(output.logits.gather(1, own)[:, 0] - others + self.confidence)
        return self.penalty(lead)


class _AwayFromPrediction(StepHalving):
    def __init__(
        self,
        view: View,
        clean: Tensor,
        ball: Threat,
        norm: str,
        far: float,
        steps: int,
        labels: Tensor,
        confidence: float,
        penalty: Penalty,
    ) -> None:
        self.lead = _Lead(labels, confidence, penalty)
        super().__init__(view, clean, ball, self.lead, norm, far, steps)

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        self.lead.rows = rows
        return super().evaluate(point, rows, share)
