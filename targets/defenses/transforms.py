"""Input transforms: the image is coded again, coarsened or smoothed before the network sees it.

A perturbation finer than the transform does not survive it, unless it was made through it. JPEG and
rounding have no useful gradient; what they pass on instead is that of the identity (BPDA: Athalye
et al., Obfuscated Gradients Give a False Sense of Security, ICML 2018), and nothing at all where an
attack switches surrogates off. Median and blur are differentiated as they are. The set follows what
ART offers and QuantAttack (WACV 2025) tries against energy attacks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Defense, Target
from bench.codec import through_jpeg
from bench.errors import PlanError
from bench.image import to_float, to_grid
from targets.defenses.wrapped import StraightThrough, Wrapped


class Coarsened(Wrapped):
    """A transform without a gradient of its own in front of a target."""

    @abstractmethod
    def coarse(self, images: Tensor) -> Tensor:
        """(N, C, H, W) the transformed images; called without a graph."""

    def before(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.coarse(images)
        if images.requires_grad and self.evaluation.surrogate:
            passed: Tensor = StraightThrough.apply(value, images)
            return passed
        return value


class _Jpeg(Coarsened):
    def __init__(self, inner: Target, quality: int) -> None:
        super().__init__(inner)
        self.quality = quality

    def coarse(self, images: Tensor) -> Tensor:
        coded = through_jpeg(to_grid(images).cpu(), self.quality)
        # Written into a copy of the images: the coder works outside torch, and an audit follows
        # what is computed from the image from one operator to the next.
        return images.clone().copy_(to_float(coded), non_blocking=True)


class JPEG(Defense):
    """The image goes through JPEG before the network sees it.

    Args:
        quality: 1 to 100. On photographs of 224 pixels 90 / 75 / 50 leave a PSNR of 35.5 / 32.6 /
            30.7 dB.

    Multiplies nothing that counts as MACs; what it takes is seen in the measured latency.
    Surrogate: the identity.
    """

    follows: ClassVar[str] = (
        "Dziugaite et al., A study of the effect of JPG compression on adversarial images, 2016"
    )
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"quality": (1, 100)}

    def __init__(self, *, quality: int = 75) -> None:
        self.quality = quality

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        return _Jpeg(target, self.quality)


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


__all__ = ["JPEG", "BitDepth", "Coarsened", "GaussianBlur", "Median"]
