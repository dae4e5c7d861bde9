"""Images, threats and decisions to test with."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import torch
from torch import Tensor

from bench.contracts.target import Target
from bench.contracts.threat import Threat


def sample_images(shape: tuple[int, int, int], count: int = 6) -> Tensor:
    """(count, C, H, W) in [0,1] on the 8-bit grid, fixed: noise, flat colours and gradients."""
    channels, height, width = shape
    generator = torch.Generator().manual_seed(7)
    noise = torch.rand(count, channels, height, width, generator=generator)
    ramp = torch.linspace(0, 1, width).expand(channels, height, width)
    colour = torch.rand(count, channels, 1, 1, generator=generator)
    mix = torch.linspace(0, 1, count)[:, None, None, None]
    return (((1 - mix) * noise + mix * (0.5 * ramp + 0.5 * colour)) * 255).round() / 255


def sample_threats() -> Iterator[Threat]:
    """One threat of each norm."""
    yield Threat("linf", Fraction(8, 255))
    yield Threat("l2", Fraction(1, 2))
    yield Threat("psnr", Fraction(35))
    yield Threat("patch", Fraction(4))
    yield Threat("none", Fraction(0))


def random_decisions(target: Target, count: int = 4, seed: int = 3) -> Tensor:
    """(count, U) bool, random and admissible."""
    drawn = (
        torch.rand(count, len(target.units), generator=torch.Generator().manual_seed(seed)) < 0.5
    )
    return target.units.admissible(drawn)
