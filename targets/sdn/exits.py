"""Exits: internal classifiers on feature maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InternalClassifier(nn.Module):
    """The classifier of an exit: pooled to 4x4 by a learned mix of maximum and mean, then one
    linear layer.

    Args:
        shape: (C, H, W) of the features.
        classes: K.

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

    def pooled(self, x: Tensor) -> Tensor:
        """(N, D) all that the classifier needs of (N, C, H, W), before its own parameters come in:
        the maxima and then the means of its windows, or the map itself where it is small."""
        if not self.pools:
            return x.flatten(1)
        both = F.max_pool2d(x, self.window), F.avg_pool2d(x, self.window)
        return torch.cat([both[0].flatten(1), both[1].flatten(1)], 1)

    def from_pooled(self, pooled: Tensor) -> Tensor:
        """(N, K) logits from what `pooled` gives."""
        if self.pools:
            most, mean = pooled.chunk(2, 1)
            pooled = self.alpha * most + (1 - self.alpha) * mean
        logits: Tensor = self.linear(pooled)
        return logits

    @property
    def width(self) -> int:
        """D of `pooled`."""
        return self.linear.in_features * (2 if self.pools else 1)
