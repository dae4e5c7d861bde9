"""The box: how the free variable that an attack optimises becomes an image within its range.

Two kinds. A projected box moves the pixels themselves and clips them. A tanh map moves an unbounded
variable w = u(x) + delta and squashes it,

    x'_n = low + (high - low) (tanh(slope * w) + 1) / 2,     x' = mean + std * x'_n,

so that no clipping is needed. Carlini and Wagner start such a map at the image itself (u = arctanh
of the scaled image). The released code of ILFO and of GradAuto, and Eq. 3 of the GradAuto paper,
leave the arctanh out (u = x_n): their map at delta = 0 is a contrast stretch of the image, about 19
dB away from it on photographs. Those maps are kept to the letter here; they cannot start at the
clean image, nor be put back onto a ball around it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import torch
from torch import Tensor

from bench.api import Skip, Threat
from bench.image import project, settle, to_float, to_grid

BoxName = Literal["clamp", "tanh", "stretch", "literal"]
Statistics = Literal["auto", "imagenet", "cifar10"]
Rounding = Literal["after", "inside"]

MEAN_STD = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
}
"""Per-channel mean and standard deviation in which the original scripts measure and map images."""

GRADAUTO_LOW = (-2.4291, -2.4183, -2.2214)
GRADAUTO_HIGH = (2.5141, 2.5968, 2.7537)
"""The released GradAuto bounds: (0 - m)/s and (1 - m)/s of CIFAR-10, used there on
ImageNet-normalised images.
"""
GRADAUTO_SLOPE = 0.8
ILFO_LOW, ILFO_HIGH = -2.22, 2.5
"""The released ILFO bounds, the same for all channels, in CIFAR-10's normalised units."""
ARCTANH_MARGIN = 1e-3
"""Black and white pixels start this far inside (-1, 1): at the ends the map would have no slope to
leave them by.
"""


@dataclass(frozen=True)
class Point:
    """Where an iterate stands.

    Attributes:
        free: (M, C, H, W) the free variable.
        image: (M, C, H, W) the image that it stands for.
        slope: d image / d free, elementwise; None where it is 1.
    """

    free: Tensor
    image: Tensor
    slope: Tensor | None

    def pull(self, gradient: Tensor) -> Tensor:
        """A gradient with respect to the image as one with respect to the free variable."""
        return gradient if self.slope is None else gradient * self.slope


class Box(ABC):
    """A map from a free variable to images.

    Attributes:
        starts_clean: whether the map can stand at the clean image, and so be held inside a ball
            around it.
    """

    starts_clean: bool = True

    @abstractmethod
    def start(self, clean: Tensor) -> Tensor:
        """The free variable at delta = 0."""

    @abstractmethod
    def place(self, free: Tensor, clean: Tensor, threat: Threat) -> Point:
        """The iterate at `free`, brought back inside [0,1] and the threat where the map alone does
        not see to it.
        """


class Clamp(Box):
    """Pixels themselves, clipped to [0,1] and projected onto the threat after each step."""

    def start(self, clean: Tensor) -> Tensor:
        return clean

    def place(self, free: Tensor, clean: Tensor, threat: Threat) -> Point:
        image = project(free, clean, threat)
        return Point(image, image, None)


class OnGrid(Box):
    """Another box whose iterates are evaluated as they would be saved: settled onto the 8-bit grid,
    inside the threat.

    The gradient passes straight through the rounding, and the free variable itself is not rounded,
    so that steps shorter than half a grey level add up. What is optimised is then what is saved.
    """

    def __init__(self, inner: Box) -> None:
        self.inner = inner
        self.starts_clean = inner.starts_clean

    def start(self, clean: Tensor) -> Tensor:
        return self.inner.start(clean)

    def place(self, free: Tensor, clean: Tensor, threat: Threat) -> Point:
        point = self.inner.place(free, clean, threat)
        return Point(
            point.free,
            to_float(settle(point.image, to_grid(clean), threat)).to(point.image),
            point.slope,
        )


def with_rounding(box: Box, rounding: Rounding) -> Box:
    """The box itself, whose iterates are rounded once they are saved ("after"), or one that rounds
    every iterate ("inside").
    """
    return OnGrid(box) if rounding == "inside" else box


class Tanh(Box):
    """The tanh map of the equation above.

    Args:
        low: of x'_n; a number, or one for each channel.
        high: of x'_n; a number, or one for each channel.
        slope: the factor inside tanh.
        mean: of the space that the map lives in; (0, 1) is pixel space.
        std: of the space that the map lives in; (0, 1) is pixel space.
        arctanh: start at the image (Carlini and Wagner) rather than at the stretched one.
    """

    def __init__(
        self,
        low: tuple[float, ...] | float,
        high: tuple[float, ...] | float,
        *,
        slope: float = 1.0,
        mean: tuple[float, ...] | float = 0.0,
        std: tuple[float, ...] | float = 1.0,
        arctanh: bool = False,
    ) -> None:
        self.low, self.high, self.mean, self.std = (
            _channels(value) for value in (low, high, mean, std)
        )
        self.slope = slope
        self.starts_clean = arctanh

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(low, high, mean, std) in the type and on the device of an image, where they are copied
        to once."""
        if self.low.device != like.device or self.low.dtype != like.dtype:
            self.low, self.high = self.low.to(like), self.high.to(like)
            self.mean, self.std = self.mean.to(like), self.std.to(like)
        return self.low, self.high, self.mean, self.std

    def start(self, clean: Tensor) -> Tensor:
        low, high, mean, std = self._constants(clean)
        normalised = (clean - mean) / std
        if not self.starts_clean:
            return normalised
        scaled = 2 * (normalised - low) / (high - low) - 1
        return scaled.clamp(-1 + ARCTANH_MARGIN, 1 - ARCTANH_MARGIN).atanh() / self.slope

    def place(self, free: Tensor, clean: Tensor, threat: Threat) -> Point:
        image, slope = self._map(free)
        if not threat.bounded:
            return Point(free, image, slope)
        free = self.start(project(image, clean, threat))
        image, slope = self._map(free)
        return Point(free, project(image, clean, threat), slope)

    def _map(self, free: Tensor) -> tuple[Tensor, Tensor]:
        low, high, mean, std = self._constants(free)
        half = (high - low) / 2
        squashed = (self.slope * free).tanh()
        image = mean + std * (low + half * (squashed + 1))
        return image, std * half * self.slope * (1 - squashed.square())


def gradauto_box(
    name: BoxName,
    image_shape: tuple[int, int, int],
    statistics: Statistics = "auto",
    bounds: Literal["exact", "released"] = "exact",
) -> Box:
    """The box of a GradAuto run.

    Args:
        name: "clamp" projected pixels; "tanh" started at the image; "stretch" the released map,
            tanh(0.8 (x_n + delta)); "literal" Eq. 3 as printed, (tanh(x + delta) + 1) / 2 in
            pixels.
        image_shape: (C, H, W), for `statistics = "auto"`.
        statistics: the normalised space of "stretch"; see `statistics_of`.
        bounds: of "stretch": "released" is CIFAR-10's whatever the data, "exact" (0 - m)/s and (1 -
            m)/s of `statistics`.
    """
    if name == "clamp":
        return Clamp()
    if name == "tanh":
        return Tanh(0.0, 1.0, arctanh=True)
    if name == "literal":
        return Tanh(0.0, 1.0)
    mean, std = statistics_of(statistics, image_shape)
    low: tuple[float, ...] = GRADAUTO_LOW
    high: tuple[float, ...] = GRADAUTO_HIGH
    if bounds == "exact":
        low = tuple((0 - m) / s for m, s in zip(mean, std, strict=True))
        high = tuple((1 - m) / s for m, s in zip(mean, std, strict=True))
    return Tanh(low, high, slope=GRADAUTO_SLOPE, mean=mean, std=std)


def ilfo_box(
    name: BoxName, image_shape: tuple[int, int, int], statistics: Statistics = "auto"
) -> Box:
    """The box of an ILFO run: as `gradauto_box`, but "stretch" is ILFO's own map, tanh(x_n + delta)
    onto [-2.22, 2.5].
    """
    if name != "stretch":
        return gradauto_box(name, image_shape)
    mean, std = statistics_of(statistics, image_shape)
    return Tanh(ILFO_LOW, ILFO_HIGH, mean=mean, std=std)


def ball_of(threat: Threat, psnr: float) -> Threat:
    """The threat itself.

    Under "none", the ball of a PSNR floor of `psnr` dB, for attacks whose steps are shares of a
    ball.
    """
    return threat if threat.bounded else Threat("psnr", Fraction(psnr))


def reach(threat: Threat, values: int, psnr: float) -> float:
    """Root mean square of the largest change that a threat admits to an image of `values` numbers:
    the natural unit of a step.

    Args:
        psnr: dB; under "none" the reach is that of this PSNR floor. Under "patch" it is half the
            pixel range.
    """
    bound = threat.bound(values)
    if bound is None:
        return float(10 ** (-psnr / 20))
    if threat.norm == "linf":
        return bound / 255
    return 0.5 if threat.norm == "patch" else float((bound / values) ** 0.5 / 255)


def published_only(box: Box, threat: Threat) -> Skip | None:
    """A map that cannot stand at the clean image cannot be held inside a ball around it either."""
    if box.starts_clean or not threat.bounded:
        return None
    return Skip(
        "its tanh map starts, as published, from a contrast stretch and "
        'not from the image; it runs under threat "none" only'
    )


def statistics_of(
    name: Statistics, image_shape: tuple[int, int, int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, std) by name.

    "auto" is CIFAR-10's up to 64 pixels a side and ImageNet's above, as the original networks have
    it.

    Images that do not have three channels are left as they are: (0, 1).
    """
    if image_shape[0] != 3:
        return (0.0,) * image_shape[0], (1.0,) * image_shape[0]
    if name == "auto":
        name = "cifar10" if image_shape[-1] <= 64 else "imagenet"
    return MEAN_STD[name]


def _channels(value: tuple[float, ...] | float) -> Tensor:
    """(1, C, 1, 1), or a scalar for a plain number."""
    column = torch.tensor(value, dtype=torch.float32)
    return column if column.ndim == 0 else column[None, :, None, None]
