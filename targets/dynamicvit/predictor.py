"""The predictor in front of a stage: whether to keep each patch token, from the token and from the
mean of those that are left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class KeepPredictor(nn.Module):
    """log p(keep) and log p(drop) of patch tokens (Rao et al., DynamicViT, equations 2 to 5).

    Half of each token's features stay its own, the other half are averaged over the tokens that are
    left. Tensors have the released names.

    Args:
        width: D, a multiple of 4.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU())
        self.out_conv = nn.Sequential(
            nn.Linear(width, width // 2),
            nn.GELU(),
            nn.Linear(width // 2, width // 4),
            nn.GELU(),
            nn.Linear(width // 4, 2),
            nn.LogSoftmax(dim=-1),
        )

    def forward(self, x: Tensor, left: Tensor | None = None) -> Tensor:
        """(N, P, 2) log-probabilities of keeping and of dropping.

        Args:
            x: (N, P, D) patch tokens, not normalized.
            left: (N, P) bool, those that are left; all where None. What comes out for the others
                means nothing.
        """
        half = x.shape[2] // 2
        inner = self.in_conv(x)
        own, shared = inner[:, :, :half], inner[:, :, half:]
        if left is None:
            mean = shared.mean(1, keepdim=True)
        else:
            weight = left.to(shared.dtype)[:, :, None]
            mean = (shared * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        found: Tensor = self.out_conv(torch.cat([own, mean.expand_as(shared)], 2))
        return found

    def macs(self) -> int:
        """MACs of one token."""
        layers: list[Any] = [layer for layer in self.modules() if isinstance(layer, nn.Linear)]
        return sum(layer.weight.numel() + layer.bias.numel() for layer in layers)
