"""Augmentation of training images: random crops and mirror images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, generator: torch.Generator, *, flip: bool) -> Tensor:
    """Random crops of the zero-padded images, mirrored half of the time where allowed.

    Args:
        images: (N, C, H, W) uint8; padded by H/8 on each side (4 at 32 pixels).
        generator: on the CPU.
        flip: whether a mirrored image keeps its class.

    Returns:
        (N, C, H, W) float32 in [0,1].
    """
    count, _, height, width = images.shape
    pad = height // 8
    corner = torch.randint(0, 2 * pad + 1, (2, count, 1), generator=generator)
    y, x = corner[0] + torch.arange(height), corner[1] + torch.arange(width)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        x = torch.where(mirrored, x.flip(1), x)
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    cut = padded[torch.arange(count)[:, None, None], y[:, :, None], x[:, None, :]]
    return cut.permute(0, 3, 1, 2).to(torch.float32) / 255
