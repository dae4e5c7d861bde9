"""Signs that an attack's number says more about the attack than about the target: what AutoAttack warns of, for energy.

Obfuscated gradients look like robustness. These checks flag them; they judge nobody. A target whose two forward passes differ is not
flagged but invalid (`bench.judge.probe`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.api import Target

SATURATED_BEYOND = 20.0
"""|logit margin| from which a sigmoid has no gradient left in single precision."""
RISING_BY = 0.01
"""Recovery that the second half of the budget may still add before an attack counts as not converged: one point."""
AHEAD_BY = 0.002
"""Recovery by which a black box may lead the white boxes."""


def gradients(target: Target, images: Tensor) -> dict[str, int]:
    """Look at the gradient of missing units' margins, on a few clean images.

    Returns:
        "images" looked at that miss a unit, and how many of them have "zero" gradient and how many mostly "saturated" gates.
    """
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
    return {"images": int(asked.sum()), "zero": int(dead.sum()), "saturated": int((asked & far).sum())}


def of_target(found: Mapping[str, int]) -> list[str]:
    """Flags from what `gradients` found."""
    return [flag for name, flag in (("zero", "zero-gradient"), ("saturated", "saturated-gates")) if found.get(name)]


def still_rising(traces: Sequence[Sequence[Mapping[str, Any]]], clean: Sequence[int], budget: int, ceiling: int) -> bool:
    """Whether the second half of the budget still won a point of recovery or more: doubling the steps paid.

    Args:
        traces: of each image, points of (evaluations, macs) of its best image so far. clean: MACs of each image.
    """
    reserve = sum(ceiling - macs for macs in clean)
    if reserve <= 0:
        return False
    late = 0
    for points, start in zip(traces, clean, strict=True):
        if points:
            half = max([point["macs"] for point in points if 2 * point["evaluations"] <= budget], default=start)
            late += max(points[-1]["macs"] - max(half, start), 0)
    return late / reserve >= RISING_BY


def black_box_leads(means: Mapping[str, float], black: Sequence[str], reserve: float) -> bool:
    """Whether an attack that sees MACs alone wins more than every one that sees gradients.

    Args:
        means: mean adversarial MACs of each member. black: the names of those that see MACs alone. reserve: mean ceiling - clean.
    """
    blind = [value for name, value in means.items() if name in black]
    seeing = [value for name, value in means.items() if name not in black]
    return bool(blind and seeing) and reserve > 0 and (max(blind) - max(seeing)) / reserve > AHEAD_BY
