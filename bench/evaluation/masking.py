"""Gradient masking: what a target's gradients look like before anything is attacked."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.evaluation.outputs import own_copy
from bench.store.target import GradientCounts

STEPS = (0.5, 1.0, 2.0, 4.0, 8.0)
"""How far the line search goes along the gradient, in grey levels (root mean square)."""
FALLS_BY = 0.01
"""Share of what is missing that some step along the gradient has to win."""
AT_ITS_END = 1e-8
"""How close to an end of its range a gate value has no slope left in single precision."""


def gradients(target: Target, images: Tensor, bare: Target | None = None) -> GradientCounts:
    """Look at the gradient of missing units' margins, on a few clean images, as an attack that
    knows the target would.

    Args:
        bare: the network without its defense; None for a target without one.

    Returns:
        What was seen; "misled" is the line search of E.2.6, and straight-through masks count as
        switched off whether the defense did so for itself or for whoever asks.
    """
    seen = _look(target, images)
    asked = seen.asked
    with target.evaluating(surrogate=False):
        blind = _look(target, images).dead
    counted = {
        "images": asked,
        "zero": asked & seen.dead,
        "saturated": asked & _saturated(target, seen.output),
        "misled": asked & ~seen.dead & ~_falls(target, images, seen),
        "without_surrogates": asked & blind,
    }
    few = images[:4]
    hard = (
        bare is not None
        and _straight_through(bare, few)
        and (_switched_off(bare, target) or not _straight_through(target, few))
    )
    counts = {name: int(value.sum()) for name, value in counted.items()}
    return GradientCounts(**counts, hard_masks=hard)


def _switched_off(bare: Target, target: Target) -> bool:
    return bare.evaluation.mask_grad == "ste" and target.evaluation.mask_grad == "none"


@dataclass(frozen=True)
class _Look:
    """Outputs of N images, how much they miss (N,), its gradient; whether something is missing, and
    whether that has no gradient."""

    output: Output
    missing: Tensor
    gradient: Tensor
    asked: Tensor
    dead: Tensor


def _look(target: Target, images: Tensor) -> _Look:
    inputs = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        output = target(inputs)
        missing = torch.relu(-output.logit_margins).sum(1)
        (grad,) = (
            torch.autograd.grad(missing.sum(), inputs)
            if missing.requires_grad
            else (torch.zeros_like(inputs),)
        )
    found = own_copy(output)
    asked = (missing.detach() > 0) & _room(target, found)
    return _Look(found, missing.detach(), grad, asked, grad.flatten(1).abs().amax(1) == 0)


def _room(target: Target, output: Output) -> Tensor:
    """(N,) whether a missing unit would still fit: under a cap that is filled, nothing is hidden by
    having no gradient."""
    left = target.bound - target.macs(output.decisions).to(output.decisions.device)
    cost = target.units.column("cost", output.decisions.device)
    huge = torch.iinfo(torch.int64).max
    least = (
        torch.where(output.decisions, huge, cost).amin(1)
        if len(cost)
        else torch.full_like(left, huge)
    )
    return least <= left


def _saturated(target: Target, output: Output) -> Tensor:
    """(N,) whether more than half of the bounded gates have no slope left, by their logits or by
    their own values."""
    low, high, threshold = (
        target.units.column(name, output.margins.device) for name in ("low", "high", "threshold")
    )
    bounded = low.isfinite() & high.isfinite()
    if not bool(bounded.any()):
        return torch.zeros(len(output.margins), dtype=torch.bool, device=output.margins.device)
    value = (output.margins + threshold)[:, bounded]
    at_end = ((value - low[bounded]).abs() < AT_ITS_END) | (
        (high[bounded] - value).abs() < AT_ITS_END
    )
    far = output.logit_margins[:, bounded].abs() > SATURATED_BEYOND
    return (far | at_end).float().mean(1) > 0.5


def _falls(target: Target, images: Tensor, seen: _Look) -> Tensor:
    """(N,) whether some step against the gradient makes less be missing, or more be executed."""
    size = seen.gradient.flatten(1).square().mean(1).sqrt().clamp(min=1e-30)[:, None, None, None]
    before = target.macs(seen.output.decisions).clone()
    found = torch.zeros_like(seen.asked)
    for levels in STEPS:
        with torch.no_grad():
            after = target((images - levels / 255 * seen.gradient / size).clamp(0, 1))
        less = torch.relu(-after.logit_margins).sum(1) <= (1 - FALLS_BY) * seen.missing
        found |= less | (target.macs(after.decisions) > before).to(found.device)
    return found


def _straight_through(target: Target, images: Tensor) -> bool:
    """Whether it makes a difference to the gradient if hard masks pass one."""
    with target.evaluating(mask_grad="ste"):
        soft = _look(target, images).gradient
    with target.evaluating(mask_grad="none"):
        hard = _look(target, images).gradient
    return not torch.equal(soft, hard)


SATURATED_BEYOND = 20.0
"""|logit margin| from which a sigmoid has no gradient left in single precision."""
