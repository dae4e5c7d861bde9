"""Pre-activation residual networks as SACT's authors wired them in TensorFlow: the pieces, and what
each of them costs.

The CIFAR family has depths 6n+2 (three blocks of n units, 16/32/64 channels at 32/16/8 pixels),
leaky ReLUs and shortcuts without parameters; the ImageNet family is the bottleneck ResNet v2 with
the stride on the first unit of a block. Padding is TensorFlow's: "SAME" pads an even map at stride
2 by nothing in front and one behind, where PyTorch's padding=1 would shift all features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import PlanError
from targets.pieces.positions import Positions, multiply, normalize
from targets.resnet.blocks import thirds

Family = Literal["cifar", "imagenet"]

SLOPE = 0.1
"""Of the leaky ReLU of the CIFAR family below zero."""
TWICE = SLOPE * SLOPE
"""The slope behind a unit's first convolution: the authors' nested scopes put the activation into
batch normalization and again behind it. Read from the scopes, not run; it is a choice to follow
them."""

IMAGENET_UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
"""Units in each block of the ImageNet family."""


@dataclass(frozen=True)
class Form:
    """What distinguishes one family and depth from another.

    Attributes:
        units: in each block.
        widths: channels of each block's output.
        sizes: of each block's map.
        size: of the image.
        classes: by default.
        eps, momentum: of batch normalization, as PyTorch counts them.
    """

    family: Family
    units: tuple[int, ...]
    widths: tuple[int, ...]
    sizes: tuple[int, ...]
    size: int
    classes: int
    eps: float
    momentum: float

    @property
    def activation(self) -> Callable[[Tensor], Tensor]:
        """Leaky on CIFAR, ReLU on ImageNet."""
        return _leaky if self.family == "cifar" else torch.relu

    def norm(self, channels: int) -> nn.BatchNorm2d:
        """Batch normalization of this family."""
        return nn.BatchNorm2d(channels, eps=self.eps, momentum=self.momentum)


def form_for(family: Family, depth: int) -> Form:
    """The form of a family at a depth.

    Raises:
        PlanError: with the nearest depths, when the family has none like it.
    """
    if family == "cifar":
        n = thirds(depth, "20, 32, 56, 110 …")
        return Form(family, (n,) * 3, (16, 32, 64), (32, 16, 8), 32, 10, 1e-3, 0.1)
    if depth not in IMAGENET_UNITS:
        near = min(IMAGENET_UNITS, key=lambda known: abs(known - depth))
        raise PlanError(
            f"depth = {depth}: the imagenet layout has depths 50, 101 and 152; did you mean {near}?"
        )
    return Form(
        family,
        IMAGENET_UNITS[depth],
        (256, 512, 1024, 2048),
        (56, 28, 14, 7),
        224,
        1000,
        1e-5,
        0.003,
    )


class BasicUnit(nn.Module):
    """bn, act, conv 3x3, bn, act, conv 3x3 with bias, beside a shortcut without parameters (CIFAR).

    Args:
        form: of the network. inputs, outputs: channels.
        stride: 1 or 2.
        first: the network's very first unit activates before the shortcut branches off.
    """

    def __init__(self, form: Form, inputs: int, outputs: int, stride: int, first: bool) -> None:
        super().__init__()
        self.stride, self.first = stride, first
        self.preact = form.norm(inputs)
        self.conv1 = nn.Conv2d(
            inputs, outputs, 3, stride, padding=0 if stride == 2 else 1, bias=False
        )
        self.bn1 = form.norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C', H', W') from (N, C, H, W)."""
        ready = F.leaky_relu(self.preact(x), SLOPE, inplace=True)
        shortcut = ready if self.first else x
        if self.stride == 2:
            shortcut, ready = F.avg_pool2d(shortcut, 2), F.pad(ready, (0, 1, 0, 1))
        extra = self.conv2.out_channels - shortcut.shape[1]
        shortcut = F.pad(shortcut, (0, 0, 0, 0, extra // 2, extra - extra // 2))
        inner = F.leaky_relu(self.bn1(self.conv1(ready)), TWICE, inplace=True)
        residual: Tensor = self.conv2(inner)
        return shortcut + residual

    @property
    def folds_forwards(self) -> bool:
        """Whether the first convolution alone reads the first normalization."""
        return not self.first

    def at(self, x: Tensor, where: Positions) -> Tensor:
        """(C, P) the residual at some positions of one image; for units that keep the shape."""
        around = where.dilated()
        inner = multiply(self.conv1, around.windows(_leaky(self.preact(x))))
        inner = F.leaky_relu(normalize(self.bn1, inner), TWICE)
        return multiply(self.conv2, where.windows(around.put(inner)))

    def macs(self, active: Tensor, around: Tensor) -> Tensor:
        """MACs at `active` positions with `around` of them dilated."""
        channels = self.conv2.out_channels
        return around * 9 * channels * channels + active * (9 * channels * channels + channels)


class BottleneckUnit(nn.Module):
    """bn, relu, conv 1x1, bn, relu, conv 3x3, bn, relu, conv 1x1 with bias (ImageNet, ResNet v2).

    Args:
        form: of the network. inputs, outputs: channels; the inner width is outputs / 4. stride: of
            the 3x3.
        first: makes no difference here.
    """

    def __init__(self, form: Form, inputs: int, outputs: int, stride: int, first: bool) -> None:
        super().__init__()
        inner = outputs // 4
        self.preact = form.norm(inputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else None
        self.conv1, self.bn1 = nn.Conv2d(inputs, inner, 1, bias=False), form.norm(inner)
        self.conv2, self.bn2 = nn.Conv2d(inner, inner, 3, stride, 1, bias=False), form.norm(inner)
        self.conv3 = nn.Conv2d(inner, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C', H', W') from (N, C, H, W)."""
        ready = self.preact(x).relu()
        shortcut: Tensor = x if self.shortcut is None else self.shortcut(ready)
        y = self.bn1(self.conv1(ready)).relu()
        residual: Tensor = self.conv3(self.bn2(self.conv2(y)).relu())
        return shortcut + residual

    @property
    def folds_forwards(self) -> bool:
        """Whether the first convolution alone reads the first normalization."""
        return self.shortcut is None

    def at(self, x: Tensor, where: Positions) -> Tensor:
        """(C, P) the residual at some positions of one image; for units that keep the shape."""
        around = where.dilated()
        ready = normalize(self.preact, around.values(x)).relu()
        inner = normalize(self.bn1, multiply(self.conv1, ready)).relu()
        inner = multiply(self.conv2, where.windows(around.put(inner)))
        return multiply(self.conv3, normalize(self.bn2, inner).relu())

    def macs(self, active: Tensor, around: Tensor) -> Tensor:
        """MACs at `active` positions with `around` of them dilated."""
        inner, outputs = self.conv1.out_channels, self.conv3.out_channels
        return around * inner * outputs + active * (9 * inner * inner + inner * outputs + outputs)


Unit = BasicUnit | BottleneckUnit


class Stem(nn.Module):
    """The first convolution, with a bias and without normalization; on ImageNet 7x7 at stride 2,
    then 3x3 pooling."""

    def __init__(self, form: Form) -> None:
        super().__init__()
        self.family = form.family
        self.conv = (
            nn.Conv2d(3, 16, 3, 1, 1) if form.family == "cifar" else nn.Conv2d(3, 64, 7, 2, 3)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Features of the first block from images in [0,1], standardized per image (CIFAR) or
        mapped to [-1, 1] (ImageNet)."""
        if self.family == "cifar":
            features: Tensor = self.conv(standardize(images))
            return features
        x = self.conv(2 * images - 1)
        return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 3, 2)


def standardize(images: Tensor) -> Tensor:
    """Each image less its mean over its deviation, which is at least 1/sqrt(number of values); an
    attack's gradient passes."""
    count = images[0].numel()
    centred = images - images.mean((1, 2, 3), keepdim=True)
    variance = centred.square().mean((1, 2, 3), keepdim=True)
    return centred / variance.clamp(min=1 / count).sqrt()


def build_blocks(form: Form) -> nn.ModuleList:
    """The units of every block."""
    kind = BasicUnit if form.family == "cifar" else BottleneckUnit
    channels, blocks = 16 if form.family == "cifar" else 64, nn.ModuleList()
    for number, (count, width) in enumerate(zip(form.units, form.widths, strict=True)):
        units = nn.ModuleList()
        for index in range(count):
            stride = 2 if number > 0 and index == 0 else 1
            units.append(kind(form, channels, width, stride, first=number == index == 0))
            channels = width
        blocks.append(units)
    return blocks


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)
