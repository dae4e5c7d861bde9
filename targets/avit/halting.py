"""Adaptive computation time over the tokens of a transformer: scores, their sums, and the weighted
mean of the class token's states."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Advance = Callable[[int, Tensor, Tensor], Tensor]
"""(block, (N, T, D) tokens, (N, T) bool which of them run it) -> the tokens behind it, those that
do not run it unchanged."""
Score = Callable[[int, Tensor], tuple[Tensor, Tensor]]
"""(block, tokens behind it) -> (the tokens, (N, T) scores of all of them)."""
Decide = Callable[[int, Tensor, Tensor], Tensor]
"""(block, (N, T) margins behind it, (N, T) bool which tokens ran it) -> (N, T) bool which of them
run the next."""


@dataclass(frozen=True)
class HaltedTokens:
    """How the tokens of N images halted; L blocks, T tokens.

    Attributes:
        logits: (N, K).
        margins: (N, L - 1, T), what decides that a token runs block 2, 3 … L; it stands still once
            the token has halted.
        active: (N, L - 1, T) bool, what ran.
        scores: (N, L - 1, T) of the tokens behind each block but the last; anything for those that
            did not run it.
        remainder: (N, T), the weight of a token's last state.
    """

    logits: Tensor
    margins: Tensor
    active: Tensor
    scores: Tensor
    remainder: Tensor

    def ponder(self) -> Tensor:
        """(N,) the mean over tokens of blocks run plus remainder (Yin et al., equation 8)."""
        blocks = 1 + self.active.sum(1).to(self.remainder.dtype)
        return (blocks + self.remainder).mean(1)


def halt(
    x: Tensor,
    depth: int,
    limit: float,
    advance: Advance,
    score: Score,
    decide: Decide,
    classify: Callable[[Tensor], Tensor],
    *,
    with_class: bool,
) -> HaltedTokens:
    """Run the blocks of a transformer until every token has halted.

    Args:
        x: (N, T, D) tokens in front of the first block, which all of them run.
        depth: L, blocks.
        limit: a token halts when its scores add up to this.
        advance: how a block is run.
        score: how tokens are scored.
        decide: which tokens go on.
        classify: logits from the class token's weighted mean (N, D).
        with_class: whether all tokens halt where the class token does.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    active = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
    total = torch.zeros(x.shape[:2], dtype=wide, device=x.device)
    mean = torch.zeros(x.shape[0], x.shape[2], dtype=wide, device=x.device)
    remainder, margins, taken, scores = torch.zeros_like(total), [], [], []
    for block in range(depth - 1):
        x = advance(block, x, active)
        x, found = score(block, x)
        found = found.to(wide)
        grown = torch.where(active, total + found, total)
        margin = limit - grown
        if with_class:
            margin = torch.minimum(margin, margin[:, :1])
        onward = decide(block, margin, active)
        left = torch.where(active & ~onward, 1 - total, 0)
        mean = mean + (torch.where(onward, found, 0) + left)[:, :1] * x[:, 0]
        remainder, total, active = remainder + left, grown, onward
        margins.append(margin)
        taken.append(onward)
        scores.append(found)
    x = advance(depth - 1, x, active)
    left = torch.where(active, 1 - total, 0)
    mean = mean + left[:, :1] * x[:, 0]
    return HaltedTokens(
        classify(mean.to(x.dtype)),
        torch.stack(margins, 1),
        torch.stack(taken, 1),
        torch.stack(scores, 1),
        remainder + left,
    )
