"""How images are scored: one evaluation, or of a random target the mean over fresh draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.evaluation import target_checks
from bench.evaluation.seeds import seeded, seeds_of

SCORING = "score"
"""What the judge's seeds are for; attacks draw from others."""


@dataclass(frozen=True)
class Scored:
    """What the judge saw of N images.

    Attributes:
        output: of the first draw, whose predictions and decisions stand in the rows.
        macs: (N,) int64 on the CPU: executed MACs, of a random target the mean over its draws, rounded to the nearest.
        first: (N,) int64 on the CPU: executed MACs of the first draw.
    """

    output: Output
    macs: Tensor
    first: Tensor


def score(target: Target, images: Tensor, ids: Sequence[str], seed: int) -> Scored:
    """Evaluate images as the judge does.

    Args:
        images: (N, C, H, W) in [0,1]. ids: of the images. seed: of the protocol.

    A random target draws the same for an image before and after an attack: the difference is the attack's, and none of it luck.

    Raises:
        ContractBroken: an output is not as promised.
    """
    first, costs = None, []
    for draw in range(target.draws):
        with torch.no_grad(), seeded(target, seeds_of(ids, seed, SCORING, draw)):
            output = target_checks.checked(target(images), target, len(images))
        costs.append(target_checks.priced(target, output.decisions))
        first = output if draw == 0 else first
    total = torch.stack(costs).sum(0)
    assert first is not None
    return Scored(first, (2 * total + target.draws) // (2 * target.draws), costs[0])
