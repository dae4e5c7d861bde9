"""GradAuto (Pan et al., ECCV 2022): pushes closed gates open with rectified gradients.

The objective is the distance plus a hinge on the gates that are still closed (paper Eq. 7-8),

    minimise  sum (x' - x)^2 + 3HW * L_C,      L_C = sum_j lambda_j max(tau_j - G_j, 0),

descended along a gradient whose complexity part is rectified twice: in magnitude, to length K (RM,
Eq. 16-17), and in direction, so that a step does not close gates that are open already (RD, Eq.
23-25):

    g = grad distance + 3HW * K * unit( reject( grad L_C, grad L_F ) ).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Point, gradauto_box, published_only, statistics_of, with_rounding
from attacks.descent import Descent, Direction, StepRule
from attacks.gradient_attack import GradientAttack
from attacks.objective import MarginLoss, SquaredDistance, logit_shift
from attacks.optimizer import OPTIMIZERS
from attacks.rules import Incidents, Rectification, direction
from bench.api import Job, Output, Skip, Target, Threat, View

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GradAuto(GradientAttack):
    """Opens gates along gradients rectified in magnitude and direction (GradAuto, ECCV 2022).

    Costs per step: 1 forward; 1 backward for L_C while a gate is missing; 1 more for L_F where RD
    applies; 1 more where `keep_logits` is above 0. A row whose gates are all open costs its forward
    alone and takes a distance-only step.

    Presets: `code` repeats the released script, `paper` the equations as printed; both start from a
    stretched image and run under threat "none" only. `clean` starts at the image itself, works on
    gate logits, which do not saturate, and keeps the best verified image. The bare name is `clean`
    made for a ball and a budget: steps of one length, shrinking, in point of Adam, whose
    preconditioner fits no round ball. "RM only" is rd = false, "RD only" rm = false, the
    unrectified baseline both.

    Where paper and code differ (lambda, order, start of RD, which iterate), each is a parameter.

    Attributes:
        steps: evaluations at most, or "budget": as many as the budget pays for.
        K: length of the rectified complexity gradient.
        K_per: "image" its norm is K*C*H*W (released code), "pixel" its root mean square is K,
            whatever the image size.
        optimiser: "adam"; "sgd"; "normalised" gradient or "sign" steps of root mean square lr.
        lr: learning rate, in units of the free variable.
        schedule: of lr.
        rm: rectify the magnitude.
        rm_mode: "normalise" to K, or "cap" at K.
        rd: rectify the direction.
        rd_start: share of the run after which it begins.
        rd_on: the "gradient", or the "step" that the optimiser makes of it (preconditioning undoes
            the orthogonality otherwise).
        order: "rd-rm" projects, then normalises (code); "rm-rd" the other way round (paper).
        weighting: lambda by compute share ("cost", paper) or 1 ("uniform", code).
        space: where and how far past the threshold gates are pushed; see
            `attacks.objective.MarginLoss.over`.
        offset: where and how far past the threshold gates are pushed; see
            `attacks.objective.MarginLoss.over`.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        alarm: see `attacks.gradient_attack.GradientAttack`.
        loss: see `attacks.gradient_attack.GradientAttack`.
        box: the free variable; see `attacks.box.gradauto_box`.
        bounds: the free variable; see `attacks.box.gradauto_box`.
        statistics: the free variable; see `attacks.box.gradauto_box`.
        distance: unit of the distance term, "none" drops it.
        keep_logits: weight of the accuracy-keeping term sum (logits - clean logits)^2 (1e5 in the
            released option, which adds it, unnormalised, to the distance).
        iterate: which image is kept; see `attacks.best_image`.
        verify: which image is kept; see `attacks.best_image`.
        stop_at_ceiling: inside a ball, leave an image once its saved form executes everything.
        rounding: images are rounded "after" the loop has found them, or every iterate "inside" it
            (`attacks.box.OnGrid`).
    """

    version: ClassVar[int] = 2
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "K": (0, None),
        "lr": (0, None),
        "rd_start": (0, 1),
        "offset": (0, None),
        "keep_logits": (0, None),
    }
    step_cost: ClassVar[str] = (
        "3 (forward and one backward); 5 where RD acts; 1 once every gate is open"
    )
    threats: ClassVar[str] = "linf, l2, psnr, patch, none; presets code and paper under none only"
    follows: ClassVar[str] = (
        "Pan et al., GradAuto: Energy-oriented Attack on Dynamic Neural Networks, ECCV 2022"
    )
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "code": {
            "steps": 300,
            "K": 1.0,
            "K_per": "image",
            "optimiser": "adam",
            "lr": 0.01,
            "schedule": "constant",
            "weighting": "uniform",
            "space": "gate",
            "offset": 0.0,
            "box": "stretch",
            "bounds": "released",
            "distance": "normalised",
            "iterate": "last",
            "verify": False,
        },
        "paper": {
            "steps": 300,
            "K": 1.0,
            "K_per": "image",
            "optimiser": "adam",
            "lr": 0.01,
            "schedule": "constant",
            "rd_start": 0.5,
            "weighting": "cost",
            "space": "gate",
            "offset": 0.0,
            "box": "literal",
            "distance": "pixels",
            "iterate": "last",
            "verify": False,
        },
        "clean": {
            "steps": 300,
            "K": 1.0,
            "K_per": "pixel",
            "optimiser": "adam",
            "lr": 0.01,
            "schedule": "constant",
            "weighting": "cost",
            "space": "logit",
            "offset": 0.004,
            "box": "clamp",
            "distance": "pixels",
            "iterate": "best",
            "verify": True,
            "stop_at_ceiling": False,
        },
    }

    steps: int | Literal["budget"] = "budget"
    K: float = 1.0
    K_per: Literal["image", "pixel"] = "pixel"
    optimiser: Literal["adam", "sgd", "normalised", "sign"] = "normalised"
    lr: float = 0.01
    schedule: Literal["constant", "cosine"] = "cosine"
    rm: bool = True
    rm_mode: Literal["normalise", "cap"] = "normalise"
    rd: bool = True
    rd_start: float = 0.0
    rd_on: Literal["gradient", "step"] = "gradient"
    order: Literal["rd-rm", "rm-rd"] = "rd-rm"
    weighting: Literal["cost", "uniform"] = "cost"
    space: Literal["gate", "logit"] = "logit"
    offset: float = 0.03
    box: Literal["clamp", "tanh", "stretch", "literal"] = "clamp"
    bounds: Literal["exact", "released"] = "exact"
    statistics: Literal["auto", "imagenet", "cifar10"] = "auto"
    distance: Literal["pixels", "normalised", "none"] = "pixels"
    keep_logits: float = 0.0
    iterate: Literal["best", "first", "last", "loss"] = "best"
    verify: bool = True
    stop_at_ceiling: bool = True
    rounding: Literal["after", "inside"] = "after"

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """The published maps run under threat "none" only."""
        refusal = self.refusal(target)
        return refusal or published_only(
            gradauto_box(self.box, target.image_shape, self.statistics, self.bounds), threat
        )

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        incidents = Incidents()
        view = self.seen_by(view)
        best = BestImage(view, images, job.threat, self.iterate, verify=self.verify)
        descent = Descent(
            view=view,
            job=job,
            clean=images,
            box=with_rounding(
                gradauto_box(self.box, view.image_shape, self.statistics, self.bounds),
                self.rounding,
            ),
            optimizer=OPTIMIZERS[self.optimiser](self.lr),
            best=best,
            steps=self.steps,
            cost=1 + 2 * (1 + self.rd + (self.keep_logits > 0)),
            schedule=self.schedule,
            stop_at_ceiling=self.stop_at_ceiling and job.threat.bounded,
        )
        descent.run(self.step_rule(view, images, incidents))
        kept = best.finish()
        if incidents or best.failures:
            log.info("gradauto: %s, %d candidates lost to rounding", incidents, best.failures)
        return kept.clamp(0, 1)

    def step_rule(self, view: View, images: Tensor, incidents: Incidents) -> RectifiedGradient:
        """The attack's part of the loop, for the clean `images` of a view.

        Counts bad gradients into `incidents`.
        """
        values = images[0].numel()
        _, std = statistics_of(self.statistics, view.image_shape)
        length = self.K if self.K_per == "image" else self.K / values**0.5
        return RectifiedGradient(
            attack=self,
            view=view,
            clean=images,
            loss=MarginLoss.over(
                view.units,
                self.weighting,
                self.space,
                self.offset,
                images.device,
                alarm=self.alarm,
                penalty=self.penalty,
            ),
            apart=SquaredDistance.measured_in(self.distance, std, images.device),
            rectify=Rectification(
                length,
                self.rm,
                self.rd and self.rd_on == "gradient",
                self.rm_mode,
                self.order == "rd-rm",
                incidents=incidents,
            ),
            scale=float(values),
        )


class RectifiedGradient(StepRule):
    """grad distance + scale * rectified grad L_C, with respect to the free variable."""

    def __init__(
        self,
        attack: GradAuto,
        view: View,
        clean: Tensor,
        loss: MarginLoss,
        apart: SquaredDistance,
        rectify: Rectification,
        scale: float,
    ) -> None:
        self.attack, self.view, self.clean = attack, view, clean
        self.loss, self.apart, self.rectify, self.scale = loss, apart, rectify, scale
        self.clean_logits: Tensor | None = None
        self.finished: Tensor | None = None
        if attack.keep_logits > 0:
            self.clean_logits = view(clean, torch.arange(len(clean), device=clean.device)).logits

    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        missing: list[Tensor] = []
        late = share >= self.attack.rd_start

        def losses(output: Output) -> list[Tensor]:
            missing.append(self.loss.missing(output))
            asked = [missing[-1]]
            if self.attack.rd:
                asked.append(self.loss.finished(output, (missing[-1].detach() > 0) & late))
            if self.clean_logits is not None:
                asked.append(self.attack.keep_logits * logit_shift(output, self.clean_logits[rows]))
            return asked

        output, gradients = self.view.gradients(losses, point.image, rows)
        clean = self.clean[rows]
        short = torch.stack(missing).mean(0).detach()
        self.finished = point.pull(gradients[1]) if self.attack.rd else None
        complexity = self.rectify(point.pull(gradients[0]), self.finished, short)
        still = self.apart.gradient(point.image, clean)
        if self.clean_logits is not None:
            still = still + gradients[-1]
        gradient = point.pull(still).add(complexity, alpha=self.scale)
        return Direction(
            output, self.apart.value(point.image, clean) + self.scale * short, gradient
        )

    def adjust(self, step: Tensor, point: Point, rows: Tensor) -> Tensor:
        if self.attack.rd_on != "step" or self.finished is None:
            return step
        step, lost = direction(step, self.finished)
        self.rectify.incidents.add(antiparallel=lost)
        return step
