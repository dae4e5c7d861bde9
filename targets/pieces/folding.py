"""Batch normalization folded into the convolution beside it: the same function with fewer passes
over memory.

A normalization in front of a convolution, with nothing or a ReLU (leaky or not) between them, can
be folded forwards as far as its scale goes; what is left of it is an addition.

With frozen statistics, gamma (conv(x) - mean) / sqrt(var + eps) + beta is a convolution of
weights W gamma / sqrt(var + eps)
and bias beta + (b - mean) gamma / sqrt(var + eps). The result differs by float noise alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn

Pair = tuple[nn.Module, str, str]
"""(module, name of its convolution, name of the normalization behind that)."""
Net = TypeVar("Net", bound=nn.Module)
SMALLEST = 1e-6
"""A scale below this part of the largest one is not divided by."""


def fold(pairs: Iterable[Pair]) -> None:
    """Fold each normalization into its convolution and leave its activation, if it has one, or an
    identity in its place.

    Args:
        pairs: in eval mode; the convolution's output goes to the normalization and nowhere else.
    """
    for owner, convolution, normalization in pairs:
        conv, norm = getattr(owner, convolution), getattr(owner, normalization)
        assert isinstance(conv, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        scale, shift = _affine(norm)
        if conv.bias is not None:
            shift = shift + conv.bias.to(scale.dtype) * scale
        weight = conv.weight.to(scale.dtype) * scale[:, None, None, None]
        conv.weight = nn.Parameter(weight.detach().to(conv.weight.dtype), requires_grad=False)
        conv.bias = nn.Parameter(shift.detach().to(conv.weight.dtype), requires_grad=False)
        # timm's normalizations bring their activation along
        setattr(owner, normalization, getattr(norm, "act", None) or nn.Identity())


_OF_TIMM: Mapping[str, tuple[tuple[str, str], ...]] = {
    "EfficientNet": (("conv_stem", "bn1"), ("conv_head", "bn2")),
    "MobileNetV3": (("conv_stem", "bn1"),),
    "DepthwiseSeparableConv": (("conv_dw", "bn1"), ("conv_pw", "bn2")),
    "InvertedResidual": (("conv_pw", "bn1"), ("conv_dw", "bn2"), ("conv_pwl", "bn3")),
    "EdgeResidual": (("conv_exp", "bn1"), ("conv_pwl", "bn2")),
    "ConvBnAct": (("conv", "bn1"),),
    "ConvNormAct": (("conv", "bn"),),
}
"""Modules of timm, and their convolutions with the normalization that stands right behind each."""


class Shift(nn.Module):
    """x + shift, channel by channel: its gradient passes unchanged."""

    shift: torch.Tensor

    def __init__(self, shift: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) from the same."""
        return x + self.shift[:, None, None]


def fold_forwards(pairs: Iterable[tuple[nn.Module, str, str]]) -> None:
    """Fold the scale of each normalization into the convolution behind it, and leave a `Shift`.

    f(s x + t) = s f(x + t / s) for s > 0 where f is the identity or a ReLU, leaky or not. A
    normalization with a scale of 0 or less stays as it is.

    Args:
        pairs: (module, name of its normalization, name of the convolution behind it), in eval
            mode; nothing else reads what the normalization gives.
    """
    for owner, normalization, convolution in pairs:
        norm, conv = getattr(owner, normalization), getattr(owner, convolution)
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(conv, nn.Conv2d)
        scale, shift = _affine(norm)
        if bool((scale <= SMALLEST * scale.abs().max()).any()):
            continue
        weight = conv.weight.to(scale.dtype) * scale[None, :, None, None]
        kind = conv.weight.dtype
        conv.weight = nn.Parameter(weight.detach().to(kind), requires_grad=False)
        setattr(owner, normalization, Shift((shift / scale).detach().to(kind)))


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """(C,) scale and shift of a normalization in eval mode, in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    wide = torch.float64
    scale = norm.weight.to(wide) / (norm.running_var.to(wide) + norm.eps).sqrt()
    return scale, norm.bias.to(wide) - norm.running_mean.to(wide) * scale


def pairs_of(net: nn.Module) -> list[Pair]:
    """All normalizations of a network that stand right behind a convolution, by the names and
    orders used here.

    conv1 with bn1, conv2 with bn2 and so on inside one module, neighbors inside an
    `nn.Sequential`, and what some modules of timm call them.
    """
    found: list[Pair] = []
    for module in net.modules():
        if type(module).__name__ in _OF_TIMM and type(module).__module__.startswith("timm."):
            pairs = list(_OF_TIMM[type(module).__name__])
        elif isinstance(module, nn.Sequential):
            names = [name for name, _ in module.named_children()]
            pairs = list(pairwise(names))
        else:
            pairs = [(f"conv{number}", f"bn{number}") for number in range(1, 10)]
        found += [
            (module, convolution, normalization)
            for convolution, normalization in pairs
            if isinstance(getattr(module, convolution, None), nn.Conv2d)
            and isinstance(getattr(module, normalization, None), nn.BatchNorm2d)
        ]
    return found


def folded(net: Net) -> Net:
    """A copy of a frozen network with its normalizations folded and its weights in channels-
    last layout.
    """
    made = copy.deepcopy(net)
    fold(pairs_of(made))
    return made.to(memory_format=torch.channels_last)
