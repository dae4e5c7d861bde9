"""Batch normalization folded into the convolution in front of it: the same function with fewer passes over memory.

With frozen statistics, gamma (conv(x) - mean) / sqrt(var + eps) + beta is a convolution of weights W gamma / sqrt(var + eps)
and bias beta + (b - mean) gamma / sqrt(var + eps). The result differs by float noise alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

Pair = tuple[nn.Module, str, nn.Module, str]
"""(module, name of its convolution, module, name of the normalization behind that)."""


def fold(pairs: Iterable[Pair]) -> None:
    """Fold each normalization into its convolution and leave an identity in its place.

    Args:
        pairs: in eval mode; the convolution's output goes to the normalization and nowhere else.
    """
    for owner, convolution, other, normalization in pairs:
        conv, norm = getattr(owner, convolution), getattr(other, normalization)
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
        setattr(other, normalization, nn.Identity())


def numbered(module: nn.Module) -> list[Pair]:
    """conv1 with bn1, conv2 with bn2 and so on, as far as the module has both."""
    return [
        (module, f"conv{number}", module, f"bn{number}")
        for number in range(1, 10)
        if isinstance(getattr(module, f"conv{number}", None), nn.Conv2d)
        and isinstance(getattr(module, f"bn{number}", None), nn.BatchNorm2d)
    ]
