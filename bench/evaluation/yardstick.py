"""A short attack of the harness's own, to tell a stuck attack from a robust target.

    minimize  sum_j lambda_j log(1 + max(o - m_j, 0) / T)      inside the ball,

by 25 steps of one length with momentum, on the first images of a board. Every iterate is evaluated
as it would be saved. An attack that was given more than these 25 steps cost and still executes
clearly fewer MACs on the same images has not found what is there: its number is about the attack
(`bench.results.flags.is_stuck`). The opposite says nothing: the yardstick is short and no bound.
"""

from __future__ import annotations

from math import cos, pi

import torch
from torch import Tensor

from bench.contracts.target import Target
from bench.contracts.threat import Threat
from bench.image import project, settle, to_float, to_grid
from bench.store.target import Yardstick

STEPS = 25
COST = 3 * STEPS
"""Forward-equivalents an image: a forward and a backward a step."""
TEMPERATURE, OFFSET = 0.001, 0.0005
"""T and o of the loss above, in logits."""
FIRST, LAST = 0.5, 0.02
"""Length of the first and the last step, as a share of the largest change the threat admits."""
MOMENTUM = 0.75
IMAGES = 16
"""How many of a board's first images are attacked."""


def measure(target: Target, images: Tensor, threat: Threat) -> Yardstick:
    """Attack clean images for `STEPS` steps.

    Args:
        target: frozen, in eval mode.
        images: (N, C, H, W) in [0,1], on the 8-bit grid.
        threat: of the board.

    Returns:
        What it reached; nothing where it does not apply: without a ball, under a patch, without
        units, on a random target.
    """
    bound = threat.bound(images[0].numel())
    if bound is None or threat.norm == "patch" or not len(target.units) or target.draws > 1:
        return Yardstick()
    signs = threat.norm == "linf"
    values = images[0].numel()
    reach = float(bound) / 255 if signs else (float(bound) / values) ** 0.5 / 255
    grid, x, before = to_grid(images), images, images
    most = torch.full((len(images),), -1, dtype=torch.int64)
    for step in range(STEPS):
        saved = to_float(settle(x, grid, threat)).to(images)
        gradient, macs = _gradient(target, saved)
        most = torch.maximum(most, macs.cpu())
        length = LAST + (FIRST - LAST) * 0.5 * (1 + cos(pi * step / (STEPS - 1)))
        norm = gradient.flatten(1).norm(dim=1).clamp(min=1e-30)[:, None, None, None]
        unit = gradient.sign() if signs else gradient * (values**0.5 / norm)
        z = project(x - length * reach * unit, images, threat)
        new = project(x + MOMENTUM * (z - x) + (1 - MOMENTUM) * (x - before), images, threat)
        x, before = new, x
    return Yardstick(STEPS, COST, tuple(most.tolist()))


def _gradient(target: Target, images: Tensor) -> tuple[Tensor, Tensor]:
    """((N, C, H, W) gradient of the loss, (N,) executed MACs)."""
    inputs = images.detach().requires_grad_()
    with torch.enable_grad():
        output = target(inputs)
        cost = target.units.cost.to(output.margins)
        gap = torch.relu(OFFSET - output.logit_margins)
        loss = (torch.log1p(gap / TEMPERATURE) * cost / cost.sum().clamp(min=1)).sum()
        if not loss.requires_grad:
            return torch.zeros_like(images), target.macs(output.decisions)
        (gradient,) = torch.autograd.grad(loss, inputs)
    return torch.nan_to_num(gradient, 0.0, 0.0, 0.0), target.macs(output.decisions)
