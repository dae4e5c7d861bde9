"""Gradient masking: what a target's gradients look like before anything is attacked."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.api import Target
from bench.suspicion import SATURATED_BEYOND


def gradients(target: Target, images: Tensor) -> dict[str, int]:
    """Look at the gradient of missing units' margins, on a few clean images, as an attack that knows the target would.

    Returns:
        "images" looked at that miss a unit; how many of them have "zero" gradient, how many mostly "saturated" gates, and how many
        would have no gradient "without_surrogates".
    """
    asked, dead, far = _looked_at(target, images)
    kept = target.surrogate
    target.surrogate = False
    try:
        _, blind, _ = _looked_at(target, images)
    finally:
        target.surrogate = kept
    found = {"images": asked, "zero": asked & dead, "saturated": asked & far, "without_surrogates": asked & blind}
    return {name: int(value.sum()) for name, value in found.items()}


def _looked_at(target: Target, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(N,) bool each: a unit is missing, the gradient of what is missing is zero, most gates are saturated."""
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        output = target(inputs)
        missing = torch.relu(-output.logit_margins).sum(1)
        (grad,) = torch.autograd.grad(missing.sum(), inputs) if missing.requires_grad else (torch.zeros_like(inputs),)
    asked = missing.detach() > 0
    dead = asked & (grad.flatten(1).abs().amax(1) == 0)
    bounded = target.units.low.isfinite() & target.units.high.isfinite()
    logits = output.logit_margins.detach()[:, bounded.to(images.device)]
    far = (logits.abs() > SATURATED_BEYOND).float().mean(1) > 0.5 if logits.shape[1] else torch.zeros_like(asked)
    return asked, dead, far
