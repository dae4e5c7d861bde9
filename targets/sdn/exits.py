"""Exits: internal classifiers on feature maps, and the rule that leaves at the first one that is
sure enough."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InternalClassifier(nn.Module):
    """The classifier of an exit: pooled to 4x4 by a learned mix of maximum and mean, then one
    linear layer.

    Args:
        shape: (C, H, W) of the features. classes: K.

    Maps smaller than 4x4 are taken as they are. Pooling windows are H // 4 wide, so sizes that 4
    does not divide leave a little more than 4x4. Source: Kaya et al., Shallow-Deep Networks, ICML
    2019, section 4.
    """

    def __init__(self, shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.window = (max(1, height // 4), max(1, width // 4))
        self.pools = min(height, width) >= 4
        if self.pools:
            self.alpha = nn.Parameter(torch.rand(()))
            height, width = height // self.window[0], width // self.window[1]
        self.linear = nn.Linear(channels * height * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K) logits from (N, C, H, W)."""
        if self.pools:
            x = self.alpha * F.max_pool2d(x, self.window) + (1 - self.alpha) * F.avg_pool2d(
                x, self.window
            )
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def confidence(logits: Tensor) -> Tensor:
    """(...) the largest softmax of (..., K) logits."""
    return logits.softmax(-1).amax(-1)


def log_odds(logits: Tensor) -> Tensor:
    """(...) log(p / (1 - p)) of the largest softmax p of (..., K) logits: its logit less the
    log-sum of the others'."""
    best = logits.argmax(-1, keepdim=True)
    others = torch.where(torch.zeros_like(logits).scatter(-1, best, 1.0) > 0, float("-inf"), logits)
    return logits.gather(-1, best).squeeze(-1) - others.logsumexp(-1)


def first_sure(sure: Tensor) -> Tensor:
    """(N,) the first exit that is sure, or E where none is, from (N, E) bool."""
    none = sure.new_ones(len(sure), 1)
    return torch.cat([sure, none], 1).to(torch.int64).argmax(1)
