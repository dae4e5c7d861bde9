"""ConvNet-AIG's gate, and the noise of its sampled form.

A gate ends in two logits, of skipping a block and of running it. Both the decision and its gradient
depend on their difference alone: softmax(l)[1] = sigmoid(l_1 - l_0), and the difference of two
Gumbel variables is what sampling adds to it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from targets.pieces.gumbel import gumbel_difference

HIDDEN = 16
"""Width of the gate."""
START = (0.1, 2.0)
"""Biases of the two logits at the start: sigmoid(1.9) = 87 % of sampled gates are open."""


class RelevanceGate(nn.Module):
    """Average over the map, a layer of 16, batch normalization, ReLU, two logits.

    Args:
        channels: C, of the input of its block.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, HIDDEN, 1)
        self.fc1bn = nn.BatchNorm1d(HIDDEN)
        self.fc2 = nn.Conv2d(HIDDEN, 2, 1)

    def start(self) -> None:
        """Weights near 0 behind biases that open most gates."""
        nn.init.normal_(self.fc2.weight, 0, 0.001)
        assert self.fc2.bias is not None
        with torch.no_grad():
            self.fc2.bias.copy_(torch.tensor(START))

    def forward(self, x: Tensor) -> Tensor:
        """(N,) l_1 - l_0 from features (N, C, H, W)."""
        mean = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        inner = self.fc1bn(F.linear(mean, self.fc1.weight.flatten(1), self.fc1.bias)).relu()
        pair = F.linear(inner, self.fc2.weight.flatten(1), self.fc2.bias)
        return pair[:, 1] - pair[:, 0]


def seeded_noise(seeds: list[int], units: int) -> Tensor:
    """(N, U) the noise of N rows, each from a generator of its own."""
    rows = [torch.rand((units, 2), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return gumbel_difference(torch.stack(rows)) if rows else torch.zeros(0, units)
