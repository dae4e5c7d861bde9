"""JPEG in front of the network, and what its gradient is.

The image is coded and decoded by a real coder. What an attack differentiates is the same arithmetic
in torch: colors, halved chroma, cosine transform, division by the quantization tables, and back.
Only rounding has no useful gradient. A coefficient that rounds to a number other than zero passes
its gradient on whole, as in BPDA (Athalye et al., Obfuscated Gradients Give a False Sense of
Security, ICML 2018). One that rounds to zero mostly stays there, whatever a faint perturbation
does, so it passes on less, and the more the nearer it is to the next number:

    slope(c) = 1 where round(c) != 0;  0.2 + 0.8 * 2 |c| elsewhere          c in quantization steps

Gradients through JPEG are as in Shin and Song, JPEG-resistant Adversarial Images, NIPS workshop
2017; their slope, 3 (c - round(c))^2, vanishes at every integer, which is where an image lies that
was JPEG before. Measured on training images of cifar10 (32 each, quality 75, `pry`, 35 dB, budget
60), recovery with the identity, Shin and Song's slope, slope 1 everywhere, and the one above:
skipnet-38-budget 27.9, 23.9, 32.3, 37.6; skipnet-38-hrl 32.6, not run, 34.6, 41.1. Least slopes of
0, 0.1 and 0.4 in place of 0.2 gave 36.8, 39.4 and 37.2 on the first, 0 gave 40.1 on the second.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Defense, Target
from bench.codec import through_jpeg
from bench.image import to_float, to_grid
from targets.defenses.transforms import Coarsened

LEAST_SLOPE = 0.2
"""Of a coefficient of zero."""

BLOCK = 8
"""Pixels on a side that are transformed together."""

LUMA_STEPS = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Quantization steps of brightness at quality 50 (ITU-T T.81, table K.1)."""

CHROMA_STEPS = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
"""Quantization steps of color at quality 50 (ITU-T T.81, table K.2)."""

TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)
"""Brightness and two color differences of red, green and blue (JFIF 1.02)."""


def quantization_steps(base: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """(8, 8) float32: a table for a quality of 1 to 100, as the IJG's coder scales it."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor(base)
    return ((table * scale + 50) // 100).clamp(1, 255).to(torch.float32)


def cosine_transform() -> Tensor:
    """(8, 8) float32: the orthonormal DCT-II; row k has frequency k."""
    rows = [
        [
            math.sqrt((1 if k == 0 else 2) / BLOCK)
            * math.cos((2 * n + 1) * k * math.pi / (2 * BLOCK))
            for n in range(BLOCK)
        ]
        for k in range(BLOCK)
    ]
    return torch.tensor(rows)


class _Rounded(torch.autograd.Function):
    """Coefficients in quantization steps, rounded; the slope is the module's."""

    @staticmethod
    def forward(ctx: Any, steps: Tensor) -> Tensor:
        rounded: Tensor = steps.round()
        ctx.save_for_backward(
            torch.where(rounded != 0, 1.0, LEAST_SLOPE + (1 - LEAST_SLOPE) * 2 * steps.abs())
        )
        return rounded

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        passed: Tensor = grads[0] * slope
        return passed


class _Jpeg(Coarsened):
    transform: Tensor
    luma_steps: Tensor
    chroma_steps: Tensor
    to_ycc: Tensor
    to_rgb: Tensor

    def __init__(self, inner: Target, quality: int) -> None:
        super().__init__(inner)
        self.quality = quality
        to_ycc = torch.tensor(TO_YCC)
        for name, constant in (
            ("transform", cosine_transform()),
            ("luma_steps", quantization_steps(LUMA_STEPS, quality)),
            ("chroma_steps", quantization_steps(CHROMA_STEPS, quality)),
            ("to_ycc", to_ycc),
            ("to_rgb", torch.linalg.inv(to_ycc)),
        ):
            self.register_buffer(name, constant, persistent=False)

    def coarse(self, images: Tensor) -> Tensor:
        coded = through_jpeg(to_grid(images).cpu(), self.quality)
        # Written into a copy of the images: the coder works outside torch, and an audit follows
        # what is computed from the image from one operator to the next.
        return images.clone().copy_(to_float(coded), non_blocking=True)

    def surrogate(self, images: Tensor) -> Tensor:
        """The arithmetic of the coder. Differs from it where a coefficient is so near to the middle
        of two numbers that float32 and the coder's integers round it to different sides."""
        channels, height, width = images.shape[1:]
        # Whole blocks of both, as the coder fills them: edges repeated, those of color below when
        # it is halved.
        side = 2 * BLOCK if channels == 3 else BLOCK
        padded = F.pad(images * 255, (0, -width % side, 0, -height % side), mode="replicate")
        if channels == 1:
            decoded = self._coded(padded - 128, self.luma_steps) + 128
        else:
            planes = torch.einsum("ij,njhw->nihw", self.to_ycc.to(images.dtype), padded)
            luma = self._coded(planes[:, :1] - 128, self.luma_steps) + 128
            halved = F.avg_pool2d(planes[:, 1:, : height + height % 2], 2)
            below = (height + 15) // 16 * BLOCK - halved.shape[2]
            halved = F.pad(halved, (0, 0, 0, below), mode="replicate")
            halved = self._coded(halved, self.chroma_steps)
            halved = halved[..., : -(-height // 2), : -(-width // 2)]
            chroma = F.interpolate(halved, scale_factor=2, mode="bilinear", align_corners=False)
            planes = torch.cat([each[..., :height, :width] for each in (luma, chroma)], 1)
            decoded = torch.einsum("ij,njhw->nihw", self.to_rgb.to(images.dtype), planes)
        return decoded[..., :height, :width] / 255

    def _coded(self, planes: Tensor, steps: Tensor) -> Tensor:
        """(N, P, H, W) planes after quantization; H and W are whole blocks."""
        count, number, height, width = planes.shape
        transform, steps = self.transform.to(planes.dtype), steps.to(planes.dtype)
        blocks = planes.reshape(count, number, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
        blocks = blocks.transpose(3, 4)
        rounded: Tensor = _Rounded.apply(transform @ blocks @ transform.T / steps)
        back = transform.T @ (rounded * steps) @ transform
        return back.transpose(3, 4).reshape(planes.shape)


class JPEG(Defense):
    """The image goes through JPEG before the network sees it.

    Args:
        quality: 1 to 100. On photographs of 224 pixels 90 / 75 / 50 leave a PSNR of 35.5 / 32.6 /
            30.7 dB.

    Multiplies nothing that counts as MACs; what it takes is seen in the measured latency.
    Surrogate: the coder's own arithmetic, with a slope in place of rounding (`targets.defenses.
    jpeg`).
    """

    follows: ClassVar[str] = (
        "Dziugaite et al., A study of the effect of JPG compression on adversarial images, 2016"
    )
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"quality": (1, 100)}

    def __init__(self, *, quality: int = 75) -> None:
        self.quality = quality

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        return _Jpeg(target, self.quality)


__all__ = ["JPEG"]
