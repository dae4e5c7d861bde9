"""Input transforms: the image is coarsened or smoothed before the network sees it.

A perturbation finer than the transform does not survive it, unless it was made through it. Rounding
has no useful gradient; what it passes on instead is that of the identity (BPDA: Athalye et al.,
Obfuscated Gradients Give a False Sense of Security, ICML 2018), and nothing at all where an attack
switches surrogates off. Median and blur are differentiated as they are. With JPEG
(`targets.defenses.jpeg`) the set follows what ART offers and QuantAttack (WACV 2025) tries against
energy attacks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Defense, Target
from bench.errors import PlanError
from targets.defenses.wrapped import StraightThrough, Wrapped


class Coarsened(Wrapped):
    """A transform without a gradient of its own in front of a target."""

    @abstractmethod
    def coarse(self, images: Tensor) -> Tensor:
        """(N, C, H, W) the transformed images; called without a graph."""

    def surrogate(self, images: Tensor) -> Tensor:
        """(N, C, H, W) what is differentiated in its place: here the images as they are."""
        return images

    def before(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.coarse(images)
        if images.requires_grad and self.evaluation.surrogate:
            passed: Tensor = StraightThrough.apply(value, self.surrogate(images))
            return passed
        return value


class _Bits(Coarsened):
    def __init__(self, inner: Target, bits: int) -> None:
        super().__init__(inner)
        self.steps: int = 2**bits - 1

    def coarse(self, images: Tensor) -> Tensor:
        levels: Tensor = (images * self.steps).round()
        return levels / self.steps


class BitDepth(Defense):
    """Pixels are rounded to 2^bits levels before the network sees them (feature squeezing; DefQ
    does it at the sensor).

    Args:
        bits: 1 to 8. On photographs 6 / 5 / 4 / 3 leave a PSNR of 46.8 / 40.7 / 34.4 / 27.8 dB.

    Surrogate: the identity.
    """

    follows: ClassVar[str] = "Xu et al., Feature Squeezing, NDSS 2018"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"bits": (1, 8)}

    def __init__(self, *, bits: int = 4) -> None:
        self.bits = bits

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        return _Bits(target, self.bits)


class _Median(Wrapped):
    def before(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
        height, width = images.shape[2:]
        windows = [padded[:, :, y : y + height, x : x + width] for y in range(3) for x in range(3)]
        return torch.stack(windows).median(0).values


class Median(Defense):
    """Each value becomes the median of its 3x3 neighbourhood, edges repeated.

    Compares and multiplies nothing: no MACs, but latency. The gradient is that of the value chosen.
    """

    follows: ClassVar[str] = "Xu et al., Feature Squeezing, NDSS 2018"

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        return _Median(target)


class _Blur(Wrapped):
    kernel: Tensor

    def __init__(self, inner: Target, sigma: float) -> None:
        super().__init__(inner)
        self.radius = max(1, round(3 * sigma))
        line = (
            torch.arange(-self.radius, self.radius + 1, dtype=torch.float64)
            .div(sigma)
            .square()
            .mul(-0.5)
            .exp()
        )
        line = line / line.sum()
        channels, height, width = self.image_shape
        self.register_buffer(
            "kernel",
            torch.outer(line, line).to(torch.float32).expand(channels, 1, -1, -1).contiguous(),
        )
        self.overhead = channels * height * width * len(line) ** 2

    def before(self, images: Tensor) -> Tensor:
        padded = F.pad(images, (self.radius,) * 4, mode="reflect")
        return F.conv2d(padded, self.kernel.to(images.dtype), groups=len(self.kernel))


class GaussianBlur(Defense):
    """The image is smoothed by a Gaussian before the network sees it, edges mirrored; its MACs are
    counted.

    Args:
        sigma: in pixels; the kernel is 2 round(3 sigma) + 1 wide. On pictures of 32 pixels 0.5 / 1
            leave a PSNR of 33.9 / 25.1 dB.
    """

    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"sigma": (0.1, 5)}

    def __init__(self, *, sigma: float = 0.5) -> None:
        self.sigma = sigma

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        if 2 * round(3 * self.sigma) >= min(target.image_shape[1:]):
            raise PlanError(
                f"sigma = {self.sigma}: the kernel is wider than an image of {target.image_shape}"
            )
        return _Blur(target, self.sigma)


__all__ = ["BitDepth", "Coarsened", "GaussianBlur", "Median"]
