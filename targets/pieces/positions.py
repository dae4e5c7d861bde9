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

    def dilated(self, stride: int = 1) -> Positions:
        """What a 3x3 window at each position reads: with stride 1 these positions and all their
        neighbors, otherwise positions of a map `stride` times as large."""
        return Positions.of(dilate(self.mask[None], stride)[0])

    def windows(self, x: Tensor, stride: int = 1) -> Tensor:
        """(9 C, P) the 3x3 windows of x (1, C, stride H, stride W), zero-padded, around each
        position."""
        width, wide = self.mask.shape[1], x.shape[3] + 2
        padded = F.pad(x[0], (1, 1, 1, 1)).flatten(1)
        row, column = self.index // width, self.index % width
        corner = stride * (row * wide + column)
        step = torch.arange(3, device=x.device)
        offset = (step[:, None] * wide + step[None]).flatten()
        places = (offset[:, None] + corner[None]).flatten()
        return padded.index_select(1, places).view(9 * x.shape[1], len(self.index))

    def values(self, x: Tensor) -> Tensor:
        """(C, P) the values of x (1, C, H, W) at the positions."""
        return x[0].flatten(1).index_select(1, self.index)

    def put(self, values: Tensor) -> Tensor:
        """(1, C, H, W) with values (C, P) at the positions and 0 elsewhere."""
        whole = values.new_zeros(len(values), self.mask.numel())
        return whole.index_copy(1, self.index, values).view(1, len(values), *self.mask.shape)


def dilate(masks: Tensor, stride: int = 1) -> Tensor:
    """(N, stride H, stride W) bool: what 3x3 windows at the positions in `masks` (N, H, W) read.

    Args:
        masks: bool.
        stride: of the windows, whose first one is around the first position of the larger map.
    """
    return F.max_pool2d(_spread(masks, stride)[:, None], 3, 1, 1)[:, 0] > 0


def asking(masks: Tensor, stride: int = 1) -> Tensor:
    """(N, stride H, stride W) int64: how many windows of `masks` (N, H, W) read each position."""
    wide = F.pad(_spread(masks, stride)[:, None], (1, 1, 1, 1))
    return (9 * F.avg_pool2d(wide, 3, 1))[:, 0].round().to(torch.int64)


def read_alone(masks: Tensor, stride: int = 1) -> Tensor:
    """(N, H, W) int64: how many positions of the larger map only the window at this one reads, or
    would, where it is not in `masks` (N, H, W)."""
    count = asking(masks, stride)
    own, new = (asking(count == number)[:, ::stride, ::stride] for number in (1, 0))
    return torch.where(masks, own, new)


def _spread(masks: Tensor, stride: int) -> Tensor:
    """(N, stride H, stride W) float32: each position at the first of its stride x stride square."""
    if stride == 1:
        return masks.to(torch.float32)
    count, height, width = masks.shape
    wide = torch.zeros(
        (count, stride * height, stride * width), dtype=torch.float32, device=masks.device
    )
    wide[:, ::stride, ::stride] = masks.to(torch.float32)
    return wide


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
