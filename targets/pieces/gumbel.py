"""Gumbel noise on the two logits of a binary gate."""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST = 1e-10
"""Added to the arguments of the logarithms."""


def gumbel_difference(uniform: Tensor) -> Tensor:
    """(…,) g_1 - g_0 with g = -log(-log u): what sampling adds to the difference of two logits, so
    that it is above 0 with probability sigmoid(l_1 - l_0).

    Args:
        uniform: (…, 2) in [0,1).
    """
    noise = -torch.log(SMALLEST - torch.log(uniform + SMALLEST))
    return noise[..., 1] - noise[..., 0]
