"""DynConv's mask units, and its unit table: the positions of the output of every block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.api import Units
from targets.resnet.blocks import Place


class MaskUnit(nn.Module):
    """One logit for each position of a block's output: conv3x3(x) + fc(mean x), both with bias.

    Args:
        channels: C, of the input of the block.
        stride: of the block.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 1)
        self.conv = nn.Conv2d(channels, 1, 3, stride, 1)

    def start(self, bias: float) -> None:
        """Small weights, and this bias."""
        for layer in (self.fc, self.conv):
            nn.init.normal_(layer.weight, 0, 0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.fc.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, H', W') logits from features (N, C, H, W)."""
        mean = x.sum((2, 3)) / (x.shape[2] * x.shape[3])
        logit: Tensor = self.conv(x)[:, 0] + self.fc(mean)[:, :, None]
        return logit


@dataclass(frozen=True)
class Mask:
    """The mask of one block, as rows of the unit table.

    Attributes:
        place: the block.
        size: of its output map.
        stride: of the block.
        spread: how many times as large the map is that its first convolution computes: 1 for basic
            blocks, whose first convolution has the stride; the stride for bottlenecks.
        around: MACs of the first convolution at one position of that map.
        active: MACs of the other convolutions at one position of the output.
        first: its first row.
    """

    place: Place
    size: int
    stride: int
    spread: int
    around: int
    active: int
    first: int

    @property
    def rows(self) -> slice:
        """Its columns among all units."""
        return slice(self.first, self.first + self.size * self.size)

    def maps(self, decisions: Tensor) -> Tensor:
        """(N, H', W') its part of (N, U) decisions."""
        return decisions[:, self.rows].view(-1, self.size, self.size)


def unit_table(masks: Sequence[Mask], cost: Sequence[int], least: float) -> Units:
    """The units: independent of each other, wanted where the logit is at least `least`.

    Args:
        masks: of the network.
        cost: MACs of one position of each.
        least: the threshold of the logits.
    """
    tables = [
        Units.positions(
            [mask.place.name],
            (mask.size, mask.size),
            [each],
            threshold=least,
            low=-math.inf,
            high=math.inf,
            strict=False,
        )
        for mask, each in zip(masks, cost, strict=True)
    ]
    return Units(
        name=tuple(name for one in tables for name in one.name),
        kind=tuple(kind for one in tables for kind in one.kind),
        owner=tuple(owner for one in tables for owner in one.owner),
        shape=tuple(shape for one in tables for shape in one.shape),
        **{
            column: torch.cat([getattr(one, column) for one in tables])
            for column in ("cost", "threshold", "low", "high", "strict", "after")
        },
    )
