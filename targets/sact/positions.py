"""Convolutions at some positions of one image's map: gather the windows, multiply, put the results
in their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Positions:
    """Some positions of an H x W map.

    Attributes:
        mask: (H, W) bool.
        index: (P,) int64 of the positions in the flattened map.
    """

    mask: Tensor
    index: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Positions:
        """From an (H, W) bool mask."""
        return cls(mask, mask.flatten().nonzero().squeeze(1))

    def __len__(self) -> int:
        return len(self.index)

    @property
    def everywhere(self) -> bool:
        """Whether no position is left out."""
        return len(self.index) == self.mask.numel()

    def dilated(self) -> Positions:
        """These positions and all their neighbours: what a 3x3 window at each of them reads."""
        return Positions.of(dilate(self.mask[None])[0])

    def windows(self, x: Tensor) -> Tensor:
        """(9 C, P) the 3x3 windows of x (1, C, H, W), zero-padded, around each position."""
        width = self.mask.shape[1]
        padded = F.pad(x[0], (1, 1, 1, 1)).flatten(1)
        row, column = self.index // width, self.index % width
        corner = row * (width + 2) + column
        step = torch.arange(3, device=x.device)
        offset = (step[:, None] * (width + 2) + step[None]).flatten()
        return padded[:, (offset[:, None] + corner[None]).flatten()].view(
            9 * x.shape[1], len(self.index)
        )

    def values(self, x: Tensor) -> Tensor:
        """(C, P) the values of x (1, C, H, W) at the positions."""
        return x[0].flatten(1)[:, self.index]

    def put(self, values: Tensor) -> Tensor:
        """(1, C, H, W) with values (C, P) at the positions and 0 elsewhere."""
        whole = values.new_zeros(len(values), self.mask.numel())
        return whole.index_copy(1, self.index, values).view(1, len(values), *self.mask.shape)


def dilate(masks: Tensor) -> Tensor:
    """(N, H, W) bool: each position that has one of `masks` (N, H, W) in its 3x3 neighbourhood."""
    return F.max_pool2d(masks[:, None].to(torch.float32), 3, 1, 1)[:, 0] > 0


def neighbors(masks: Tensor) -> Tensor:
    """(N, H, W) int64: how many of `masks` (N, H, W) are set in each 3x3 neighborhood."""
    wide = F.pad(masks.to(torch.float32)[:, None], (1, 1, 1, 1))
    return (9 * F.avg_pool2d(wide, 3, 1))[:, 0].round().to(torch.int64)


def multiply(conv: nn.Conv2d, columns: Tensor) -> Tensor:
    """(C', P) what `conv` makes of the windows (its kernel size times C, P)."""
    weight = conv.weight.flatten(1)
    return (
        weight @ columns if conv.bias is None else torch.addmm(conv.bias[:, None], weight, columns)
    )


def normalize(norm: nn.BatchNorm2d, columns: Tensor) -> Tensor:
    """(C, P) batch-normalized with the running statistics."""
    return F.batch_norm(
        columns.T, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps
    ).T
