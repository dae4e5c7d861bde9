"""Controls: what no attack's number means anything without.

An attack that does not beat noise of the same size, a change of contrast, or a turn of three
photographic knobs has found nothing about the network. The identity must cost exactly nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.box import ball_of, gradauto_box, ilfo_box
from bench.api import Attack, BudgetSpent, Job, Threat, View
from bench.image import project, settle, squared_sum, to_float, to_grid


@dataclass(frozen=True, kw_only=True)
class Identity(Attack):
    """Changes nothing: exactly 0 extra MACs, or the harness is wrong."""

    control: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        return images.clone()


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Random noise of the largest size that the threat admits.

    How much of a recovery any disturbance of that size would buy.

    Under "psnr" and "l2" the integer sum of D^2 meets the bound exactly where 8 bits and the range
    [0,1] allow it; under "linf" every value moves by the full bound, up or down, whichever stays in
    range; under "patch" a square at a random place is filled with uniform noise; under "none" the
    noise is that of a PSNR floor. Evaluates nothing.

    Attributes:
        distribution: of a value's noise under "psnr", "l2" and "none": "gaussian", "uniform", or
            "sign" (all of one size).
        psnr: dB, under "none" only.
    """

    control: ClassVar[bool] = True
    randomised: ClassVar[bool] = True
    version: ClassVar[int] = 1
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "30dB": {"psnr": 30.0},
        "35dB": {"psnr": 35.0},
        "40dB": {"psnr": 40.0},
        "45dB": {"psnr": 45.0},
        "50dB": {"psnr": 50.0},
    }

    distribution: Literal["gaussian", "uniform", "sign"] = "gaussian"
    psnr: float = 40.0

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        threat = ball_of(job.threat, self.psnr)
        shape, clean = images.shape[1:], to_grid(images).to(torch.int64)
        bound = threat.bound(images[0].numel())
        assert bound is not None
        if threat.norm == "linf":
            up = (job.draw(shape) < 0.5).to(images.device)
            d = bound * torch.where(up, 1, -1)
            d = torch.where((clean + d < 0) | (clean + d > 255), -d, d).clamp(-clean, 255 - clean)
        elif threat.norm == "patch":
            d = _patch(job, clean, bound)
        else:
            noise = self._noise(job, shape).to(images.device)
            d = torch.stack([_brim(noise[i], clean[i], bound) for i in range(len(clean))])
        return to_float((clean + d).to(torch.uint8))

    def _noise(self, job: Job, shape: torch.Size) -> Tensor:
        if self.distribution == "gaussian":
            return job.draw(shape, normal=True)
        uniform = 2 * job.draw(shape) - 1
        return uniform if self.distribution == "uniform" else torch.where(uniform < 0, -1.0, 1.0)


def _patch(job: Job, clean: Tensor, side: int) -> Tensor:
    """(N, C, H, W) integer D: uniform values in one square of `side` pixels at a random place."""
    _, channels, height, width = clean.shape
    drawn = job.draw((2 + channels * height * width,)).to(clean.device)
    value = (256 * drawn[:, 2:]).to(torch.int64).reshape(clean.shape)
    tall, wide = min(side, height), min(side, width)
    top, left = (
        (drawn[:, 0] * (height - tall + 1)).long(),
        (drawn[:, 1] * (width - wide + 1)).long(),
    )
    y, x = (
        torch.arange(height, device=clean.device)[None, :, None],
        torch.arange(width, device=clean.device)[None, None, :],
    )
    top, left = top[:, None, None], left[:, None, None]
    square = (y >= top) & (y < top + tall) & (x >= left) & (x < left + wide)
    return torch.where(square[:, None], value - clean, torch.zeros_like(clean))


def _brim(noise: Tensor, clean: Tensor, bound: int) -> Tensor:
    """One image's integer D along `noise`, with sum D^2 as near below `bound` as the grid and the
    range admit.

    The largest scale that fits is found by bisection; what is then left of the bound goes, a level
    at a time, to the values that rounding cut most.
    """
    wish = noise.to(torch.float64)
    lowest, highest = -clean, 255 - clean

    def rounded(scale: float) -> Tensor:
        return (wish * scale).round().clamp(-1e6, 1e6).to(torch.int64).clamp(lowest, highest)

    small, large = 0.0, 255.0 / max(float(wish.abs().max()), 1e-12) * 64
    for _ in range(60):
        middle = (small + large) / 2
        small, large = (
            (middle, large) if int(rounded(middle).square().sum()) <= bound else (small, middle)
        )
    d = rounded(small).flatten()
    outward = torch.where(wish < 0, -1, 1).flatten()
    room = torch.where(outward > 0, highest.flatten() - d, d - lowest.flatten()) > 0
    cut = torch.where(
        room, wish.flatten().abs() * small - d.abs(), torch.full_like(wish.flatten(), -torch.inf)
    )
    slack = bound - int(d.square().sum())
    for place in cut.argsort(descending=True, stable=True)[: int(room.sum())].tolist():
        price = 2 * abs(int(d[place])) + 1
        if price <= slack:
            d[place] += outward[place]
            slack -= price
        if slack == 0:
            break
    return d.reshape(clean.shape)


@dataclass(frozen=True, kw_only=True)
class Contrast(Attack):
    """The tanh map of the released scripts without a perturbation: a contrast stretch.

    The share of their recovery that the stretch explains.

    At delta = 0 the map of GradAuto's code already lies about 19 dB from a photograph, ILFO's about
    18 (see `attacks.box`). Under a threat the stretched image is drawn back onto the ball.
    Evaluates nothing.

    Attributes:
        map: whose map.
        bounds: of GradAuto's map; see `attacks.box.gradauto_box`.
        statistics: of GradAuto's map; see `attacks.box.gradauto_box`.
    """

    control: ClassVar[bool] = True
    version: ClassVar[int] = 1
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gradauto": {"map": "gradauto"},
        "ilfo": {"map": "ilfo"},
    }

    map: Literal["gradauto", "ilfo"] = "gradauto"
    bounds: Literal["exact", "released"] = "released"
    statistics: Literal["auto", "imagenet", "cifar10"] = "auto"

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        shape = view.image_shape
        box = (
            gradauto_box("stretch", shape, self.statistics, self.bounds)
            if self.map == "gradauto"
            else ilfo_box("stretch", shape, self.statistics)
        )
        unbound = Threat("none", Fraction(0))
        stretched = box.place(box.start(images), images, unbound).image
        return project(stretched, images, job.threat)


@dataclass(frozen=True, kw_only=True)
class Photometric(Attack):
    """Turns brightness, contrast, gamma and blur, and keeps what costs most.

    An attack without gradients that any photo editor can do.

    Contrast c and brightness b together, x' = c (x - 1/2) + 1/2 + b; gamma and a Gaussian blur
    alone. Each setting is drawn back onto the threat, saved, and evaluated: 1 forward a setting.
    Settings beyond the budget are left out.

    Attributes:
        brightness: the settings tried; blur is the sigma in pixels.
        contrast: the settings tried; blur is the sigma in pixels.
        gamma: the settings tried; blur is the sigma in pixels.
        blur: the settings tried; blur is the sigma in pixels.
    """

    control: ClassVar[bool] = True
    access: ClassVar[Literal["gates", "macs"]] = "macs"
    version: ClassVar[int] = 1
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "brightness": (-1, 1),
        "contrast": (0, None),
        "gamma": (0.01, None),
        "blur": (0, None),
    }

    brightness: tuple[float, ...] = (0.0, -0.02, 0.02, -0.1, 0.1)
    contrast: tuple[float, ...] = (1.0, 0.9, 1.1, 0.6, 1.6)
    gamma: tuple[float, ...] = (0.9, 1.1, 0.6, 1.6)
    blur: tuple[float, ...] = (0.5, 1.0)

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        clean, rows = to_grid(images), torch.arange(len(images), device=images.device)
        kept, most, nearest = (
            images.clone(),
            torch.full_like(rows, -1),
            torch.full_like(rows, torch.iinfo(torch.int64).max),
        )
        for changed in self.settings(images):
            saved = settle(changed, clean, job.threat)
            try:
                macs = view.macs(to_float(saved), rows)
            except BudgetSpent:
                break
            moved = squared_sum(saved.to(torch.int64) - clean.to(torch.int64))
            better = (macs > most) | ((macs == most) & (moved < nearest))
            kept[better], most[better], nearest[better] = (
                to_float(saved[better]),
                macs[better],
                moved[better],
            )
        return kept

    def settings(self, images: Tensor) -> Iterator[Tensor]:
        """The images at each setting, (N, C, H, W).

        The unchanged one first where it is among them.
        """
        for b, c in product(self.brightness, self.contrast):
            yield c * (images - 0.5) + 0.5 + b
        for exponent in self.gamma:
            yield images**exponent
        for sigma in self.blur:
            yield gaussian_blur(images, sigma)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of `sigma` pixels, edges repeated, cut off at 3 sigma."""
    reach = max(int(3 * sigma + 0.5), 1)
    x = torch.arange(-reach, reach + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (x / sigma) ** 2).exp()
    kernel = kernel / kernel.sum()
    channels = images.shape[1]
    padded = F.pad(images, (reach, reach, reach, reach), mode="replicate")
    rows = F.conv2d(padded, kernel.reshape(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, kernel.reshape(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
