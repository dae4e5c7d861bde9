"""How images are scored: one evaluation, or of a random target the mean over fresh draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.evaluation.outputs import check_macs
from bench.evaluation.seeds import seeds_of
from bench.evaluation.target_checks import evaluate

SCORING = "score"
"""What the judge's seeds are for; attacks draw from others."""


@dataclass(frozen=True)
class Scored:
    """What the judge saw of N images.

    Attributes:
        output: of the first draw, whose predictions and decisions stand in the rows.
        macs: (N,) int64 on the CPU: executed MACs, of a random target the mean over its draws,
            rounded to the nearest.
        first: (N,) int64 on the CPU: executed MACs of the first draw.
    """

    output: Output
    macs: Tensor
    first: Tensor


def score(target: Target, images: Tensor, ids: Sequence[str], seed: int) -> Scored:
    """Evaluate images as the judge does.

    Args:
        target: frozen.
        images: (N, C, H, W) in [0,1].
        ids: of the images.
        seed: of the protocol.

    A random target draws the same for an image before and after an attack (common random numbers).

    Raises:
        ContractBroken: an output is not as promised, or the images were edited in place.
    """
    first, costs = None, []
    for draw in range(target.draws):
        output = evaluate(target, images, seeds_of(ids, seed, SCORING, draw))
        costs.append(check_macs(target, output.decisions))
        first = output if draw == 0 else first
    total = torch.stack(costs).sum(0)
    assert first is not None
    return Scored(first, (2 * total + target.draws) // (2 * target.draws), costs[0])
