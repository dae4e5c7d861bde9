"""SlowFormer's universal patch (Navaneet et al., CVPR 2024) on any target: one square, the same on
every image, fitted elsewhere.

Only the patch is trained, by AdamW, on images that are never scored, and it is quantised to 256
levels in every forward pass with the gradient passed straight through: it is 8-bit by construction.
The original pastes it into the top left corner and raises each vision transformer's own halting,
keep or attention terms: the preset `slowformer` does so by ponder cost or keep scores. The bare
name's loss is that of missing units' margins, which speaks of every family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.gradient_attack import GradientAttack, no_joint_loss
from attacks.universal import fit_losses, loss_refusal, predictions
from bench.api import BudgetSpent, Job, Skip, Target, Threat, View
from bench.image import to_float, to_grid


@dataclass(frozen=True, kw_only=True)
class Patch(GradientAttack):
    """One square pasted into every image, fitted on other images (SlowFormer, CVPR 2024).

    Costs: the fit 3 forward-equivalents an image and pass; an attacked image nothing.

    The published setting, on 224x224 pixels: 64x64 (8.2 % of the image) in the top left corner,
    AdamW at 0.2, one pass over ImageNet's training images, batches of 512, no decay of the rate. On
    a few hundred fit images several passes stand in for that one, and the batch is smaller. The
    released code truncates to 256 levels, here values are rounded to the nearest.

    Attributes:
        side: of the square under threat "none"; under a patch threat it is the threat's.
        place: "corner" top left, or "centre".
        loss: as in `universal`.
        passes: over the fit images at most, or "budget".
        batch: fit images a step; 0 takes all.
        lr: of AdamW.
        offset: as in GradAuto.
        mask_grad: as in GradAuto.
        knows: as in GradAuto.
        surrogate: as in GradAuto.
        draws: as in GradAuto.
        alarm: as in GradAuto.
    """

    unkeyed_defaults: ClassVar[tuple[str, ...]] = ()
    losses: ClassVar[tuple[str, ...]] = ("auto", "exits", "margins", "desparsify", "slowformer")
    fits: ClassVar[bool] = True
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Navaneet et al., SlowFormer: Adversarial Attack on Compute and Energy "
        "Consumption of Efficient ViTs, 2024"
    )
    step_cost: ClassVar[str] = "3 an image of the fit split and pass; 0 for an attacked image"
    needs: ClassVar[str] = "margins, or logits of exits; a fit split"
    threats: ClassVar[str] = "patch, none"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "side": (1, None),
        "passes": (1, None),
        "batch": (0, None),
        "lr": (0, None),
        "offset": (0, None),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "slowformer": {"loss": "slowformer"},
        "desparsify": {"loss": "desparsify"},
    }

    side: int = 8
    place: Literal["corner", "centre"] = "corner"
    loss: Literal["hinge", "auto", "exits", "margins", "desparsify", "slowformer"] | str = "hinge"
    passes: int | Literal["budget"] = "budget"
    batch: int = 32
    lr: float = 0.2
    offset: float = 0.03

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """A square of any colours fits no ball."""
        if threat.norm not in ("patch", "none"):
            return Skip('a patch fits no ball; run it under threat = { patch = SIDE } or "none"')
        return (
            loss_refusal(self.loss, target.units)
            or self.refusal(target)
            or (no_joint_loss(self) if self.loss in self.losses else None)
        )

    def fit(self, view: View, images: Tensor, job: Job) -> dict[str, Tensor]:
        view = self.seen_by(view)
        top, left, tall, wide = self.square(images, job.threat)
        value = torch.full(
            (1, images.shape[1], tall, wide), 0.5, device=images.device, requires_grad=True
        )
        optimizer = torch.optim.AdamW([value], lr=self.lr)
        batch = self.batch or len(images)
        parts = torch.arange(len(images), device=images.device).split(batch)
        labels = predictions(self, view, images)
        affordable = int(view.left.min()) // 3
        passes = affordable if self.passes == "budget" else min(self.passes, affordable)
        steps = passes * len(parts)
        try:
            for step in range(steps):
                rows = parts[step % len(parts)]
                losses = fit_losses(self, view, labels[rows])
                pasted = paste(images[rows], quantised(value.detach()), top, left)
                (gradient,) = view.gradients(losses, pasted, rows)[1]
                value.grad = (
                    gradient[:, :, top : top + tall, left : left + wide]
                    .mean(0, keepdim=True)
                    .to(value)
                )
                optimizer.step()
                with torch.no_grad():
                    value.clamp_(0, 1)
                job.progress(step + 1, steps)
        except BudgetSpent:
            pass
        return {"patch": quantised(value.detach())[0]}

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        patch = job.fitted.get("patch")
        if patch is None:
            return images.clone()
        top, left, _, _ = self.square(images, job.threat)
        return paste(images, patch[None], top, left)

    def square(self, images: Tensor, threat: Threat) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the patch in pixels."""
        side = int(threat.amount) if threat.norm == "patch" else self.side
        height, width = images.shape[-2:]
        tall, wide = min(side, height), min(side, width)
        return (
            (0, 0, tall, wide)
            if self.place == "corner"
            else ((height - tall) // 2, (width - wide) // 2, tall, wide)
        )


def quantised(values: Tensor) -> Tensor:
    """Values in [0,1] on the 8-bit grid."""
    return to_float(to_grid(values))


def paste(images: Tensor, patch: Tensor, top: int, left: int) -> Tensor:
    """The images (N, C, H, W) with the patch (1, C, h, w) at (top, left)."""
    pasted = images.clone()
    pasted[:, :, top : top + patch.shape[2], left : left + patch.shape[3]] = patch
    return pasted
