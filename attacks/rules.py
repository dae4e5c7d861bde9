"""Gradient rules of GradAuto, a row at a time: rectified magnitude, rectified direction, and their
composition.

    RM   g <- K g / ||g||                        (paper Eq. 16-17; a zero gradient stays zero)
    RD   g <- g - <g, f> / ||f||^2 f    if <g, f> < 0      (paper Eq. 23-25; f the gradient of L_F)

A step against a gradient so rectified closes no finished unit, to first order. The released code
projects first and normalises after; the paper prints the normalisation first. Every rule is for
single images: rows never mix.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

VANISHED = 1e-12
"""Norm below which a gradient is float noise: normalising it would blow the noise up to full
strength.
"""
ANTIPARALLEL = 1e-3
"""Share of a gradient that must survive the rejection.

Less is rounding noise, and the unprojected gradient is used.
"""


@dataclass
class Incidents:
    """How often a gradient was unusable, counted over rows and steps: what an attack logs about
    itself.

    Attributes:
        vanished: a loss above 0 whose gradient had (almost) no length; the row took a distance-only
            step.
        antiparallel: RD would have left nothing but rounding noise; the row kept its unprojected
            gradient.
        nonfinite: a gradient with inf or nan; it was treated as vanished.
    """

    _counts: dict[str, Tensor] = field(default_factory=dict)

    def add(self, **found: Tensor) -> None:
        """Count rows, (M,) bool by what went wrong; nothing is read from the device yet."""
        for name, rows in found.items():
            self._counts[name] = rows.sum() + self._counts.get(name, 0)

    def _count(self, name: str) -> int:
        return int(self._counts.get(name, 0))

    @property
    def vanished(self) -> int:
        return self._count("vanished")

    @property
    def antiparallel(self) -> int:
        return self._count("antiparallel")

    @property
    def nonfinite(self) -> int:
        return self._count("nonfinite")

    def __bool__(self) -> bool:
        return bool(self.vanished or self.antiparallel or self.nonfinite)

    def __str__(self) -> str:
        return (
            f"{self.vanished} vanished, {self.antiparallel} antiparallel, "
            f"{self.nonfinite} non-finite gradients"
        )


def norms(gradient: Tensor) -> Tensor:
    """(M, 1, 1, 1) Euclidean norm of each row."""
    found: Tensor = torch.linalg.vector_norm(gradient.flatten(1), dim=1)[:, None, None, None]
    return found


def magnitude(
    gradient: Tensor,
    length: float,
    mode: Literal["normalise", "cap"] = "normalise",
    floor: float = VANISHED,
) -> Tensor:
    """RM: each row scaled to `length` ("normalise", as Eq.

    17 and the code do) or to `length` at most ("cap", all that Eq. 16 asks).

    Rows of norm at or below `floor` become 0.
    """
    norm = norms(gradient)
    factor = torch.where(norm > floor, length / norm.clamp(min=1e-38), torch.zeros_like(norm))
    return gradient * (factor.clamp(max=1) if mode == "cap" else factor)


def direction(gradient: Tensor, finished: Tensor) -> tuple[Tensor, Tensor]:
    """RD: the component of each row that opposes `finished` is removed.

    Rows at an acute angle stay as they are.

    Returns:
        The rectified gradient, and (M,) bool: rows so nearly antiparallel that only rounding noise
        would have been left
        (their gradient is returned unprojected).
    """
    unit = finished / norms(finished).clamp(min=1e-20)
    along = (gradient * unit).flatten(1).sum(1)[:, None, None, None].clamp(max=0)
    projected = gradient - along * unit
    lost = (along < 0) & (norms(projected) < ANTIPARALLEL * norms(gradient))
    return torch.where(lost, gradient, projected), lost.flatten()


@dataclass
class Rectification:
    """RM, RD, both or neither (the unrectified baseline), in either order.

    Attributes:
        length: K in units of the gradient's norm.
        magnitude: whether RM and RD apply.
        direction: whether RM and RD apply.
        mode: of RM.
        project_first: RD before RM (released code) or after it (paper).
        incidents: what went wrong so far.
    """

    length: float
    magnitude: bool
    direction: bool
    mode: Literal["normalise", "cap"] = "normalise"
    project_first: bool = True
    incidents: Incidents = field(default_factory=Incidents)

    def __call__(self, gradient: Tensor, finished: Tensor | None, loss: Tensor) -> Tensor:
        """The rectified gradient.

        Args:
            gradient: (M, C, H, W) g_C.
            finished: (M, C, H, W) g_F, zero rows where nothing is finished; None where RD does not
                apply.
            loss: (M,) L_C, to tell a vanished gradient from a loss that is done.
        """
        gradient = self._usable(gradient, loss)
        if not self.direction or finished is None:
            return magnitude(gradient, self.length, self.mode) if self.magnitude else gradient
        if self.magnitude and not self.project_first:
            gradient = magnitude(gradient, self.length, self.mode)
        gradient, lost = direction(gradient, torch.nan_to_num(finished, 0.0, 0.0, 0.0))
        self.incidents.add(antiparallel=lost)
        if self.magnitude and self.project_first:
            gradient = magnitude(gradient, self.length, self.mode)
        return gradient

    def _usable(self, gradient: Tensor, loss: Tensor) -> Tensor:
        norm = norms(gradient)
        finite = norm.isfinite()
        usable = finite & (norm > VANISHED)
        asked = (loss > 0)[:, None, None, None]
        self.incidents.add(nonfinite=~finite, vanished=asked & finite & ~usable)
        return torch.where(usable, gradient, torch.zeros_like(gradient))
