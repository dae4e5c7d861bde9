"""Batch normalization folded into the convolution in front of it: the same function with fewer
passes over memory.

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
        assert norm.running_mean is not None
        assert norm.running_var is not None
        wide = torch.float64
        scale = norm.weight.to(wide) / (norm.running_var.to(wide) + norm.eps).sqrt()
        bias = 0 if conv.bias is None else conv.bias.to(wide)
        shift = norm.bias.to(wide) + (bias - norm.running_mean.to(wide)) * scale
        weight = conv.weight.to(wide) * scale[:, None, None, None]
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
