"""Residual networks block by block, as SkipNet's authors wired them, and what each of their pieces
costs.

The CIFAR family has depths 6n+2 (three groups of n basic blocks, 16/32/64 channels at 32/16/8
pixels); the ImageNet family is torchvision's (stride on the 3x3 of a bottleneck). Unlike
torchvision's, a block here does not own its projection: `shortcut` runs it once, also when the
block itself is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from bench.errors import PlanError

Family = Literal["cifar", "imagenet"]

IMAGENET_COUNTS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each group of the ImageNet family."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: relu(bn(conv(relu(bn(conv(x))))) + shortcut)."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C', H', W') from the input x (N, C, H, W) and its shortcut (N, C', H', W')."""
        return self.residual(x).add_(shortcut).relu_()

    def residual(self, x: Tensor) -> Tensor:
        """(N, C', H', W') what is added to the shortcut, from x (N, C, H, W)."""
        x = self.bn1(self.conv1(x)).relu_()
        y: Tensor = self.bn2(self.conv2(x))
        return y


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the stride on the 3x3, four times as many channels out."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C', H', W') from the input x (N, C, H, W) and its shortcut (N, C', H', W')."""
        return self.residual(x).add_(shortcut).relu_()

    def residual(self, x: Tensor) -> Tensor:
        """(N, C', H', W') what is added to the shortcut, from x (N, C, H, W)."""
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        y: Tensor = self.bn3(self.conv3(x))
        return y


@dataclass(frozen=True)
class Layout:
    """What distinguishes one family and depth from another."""

    block: type[BasicBlock] | type[Bottleneck]
    counts: tuple[int, ...]
    widths: tuple[int, ...]
    size: int
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """Where a block stands: its name, the names of its modules, and the shapes that pass through
    it."""

    name: str
    layer: str
    projection: str | None
    gate: str
    inputs: tuple[int, int, int]
    outputs: tuple[int, int, int]


DEEPEST = 1202
"""Layers of the deepest network of the family that was published (He et al., CVPR 2016)."""


def thirds(depth: int, known: str) -> int:
    """n of a depth 6n+2, the blocks of each third of a network for CIFAR.

    Raises:
        PlanError: with the nearest depths, when it is none, or none that anybody can train.
    """
    n, rest = divmod(depth - 2, 6)
    if rest or n < 1 or depth > DEEPEST:
        below = min(max(8, 6 * n + 2), DEEPEST - 6)
        raise PlanError(
            f"depth = {depth}: the cifar layout has depths 6n+2 ({known}) up to {DEEPEST}; did "
            f"you mean {below} or {below + 6}?"
        )
    return n


def layout_for(family: Family, depth: int) -> Layout:
    """The layout of a family at a depth.

    Raises:
        PlanError: with the nearest depths, when the family has none like it.
    """
    if family == "cifar":
        n = thirds(depth, "20, 38, 74, 110, 152 …")
        return Layout(
            BasicBlock,
            (n,) * 3,
            (16, 32, 64),
            32,
            10,
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
        )
    if depth not in IMAGENET_COUNTS:
        near = min(IMAGENET_COUNTS, key=lambda known: abs(known - depth))
        known = ", ".join(map(str, IMAGENET_COUNTS))
        raise PlanError(
            f"depth = {depth}: the imagenet layout has depths {known}; did you mean {near}?"
        )
    block = BasicBlock if depth < 50 else Bottleneck
    return Layout(
        block,
        IMAGENET_COUNTS[depth],
        (64, 128, 256, 512),
        224,
        1000,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
