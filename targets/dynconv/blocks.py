"""Residual blocks at some positions of one image's map, and what a position of theirs costs."""

from __future__ import annotations

from torch import Tensor, nn

from targets.pieces.positions import Positions, multiply, normalize
from targets.resnet.blocks import BasicBlock, Bottleneck


def residual_at(block: nn.Module, x: Tensor, where: Positions) -> Tensor:
    """(C', P) what a block adds to its shortcut at some positions of its output.

    The first convolution runs where the 3x3 convolution behind it reads; everything else at the
    positions alone.

    Args:
        block: in eval mode.
        x: (1, C, H, W) features in front of it.
        where: P positions of its output.
    """
    if isinstance(block, BasicBlock):
        around = where.dilated()
        inner = multiply(block.conv1, around.windows(x, block.conv1.stride[0]))
        inner = normalize(block.bn1, inner).relu()
        outer = multiply(block.conv2, where.windows(around.put(inner)))
        return normalize(block.bn2, outer)
    assert isinstance(block, Bottleneck)
    stride = block.conv2.stride[0]
    around = where.dilated(stride)
    inner = normalize(block.bn1, multiply(block.conv1, around.values(x))).relu()
    inner = multiply(block.conv2, where.windows(around.put(inner), stride))
    return normalize(block.bn3, multiply(block.conv3, normalize(block.bn2, inner).relu()))


def shape_of(block: nn.Module) -> tuple[int, int, int, int]:
    """(stride, spread, around, active) as `Mask` has them."""
    if isinstance(block, BasicBlock):
        stride = block.conv1.stride[0]
        return stride, 1, block.conv1.weight.numel(), block.conv2.weight.numel()
    assert isinstance(block, Bottleneck)
    stride = block.conv2.stride[0]
    active = block.conv2.weight.numel() + block.conv3.weight.numel()
    return stride, stride, block.conv1.weight.numel(), active
