"""Onward: beginning at images that somebody else saved.

An image that opens most gates already is a better place to begin than the clean one. The steps are
those of `attacks.pry`, a tenth as long, since little is to be moved.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from attacks.pry import Pry
from bench.api import Job


@dataclass(frozen=True, kw_only=True)
class Onward(Pry):
    """Pry that begins at the saved images of another cell, and keeps those that it does not beat.

    Costs per step: 1 forward, and 1 backward while a gate is missing. What the other cell spent
    comes on top of it, so the row is flagged `continued`.

    Attributes:
        start: key of the cell, or its first digits (eight or more). It is looked for in the same
            run, then in the runs beside it. "" begins at the clean images.
        loss: see `attacks.pry.Pry`.
        lr: see `attacks.pry.Pry`.
        lr_end: see `attacks.pry.Pry`.
        momentum: see `attacks.pry.Pry`.
        rounding: see `attacks.pry.Pry`.
        verify: see `attacks.pry.Pry`.
        psnr: see `attacks.pry.Pry`.
        mask_grad: see `attacks.gradient_attack.GradientAttack`.
        knows: see `attacks.gradient_attack.GradientAttack`.
        surrogate: see `attacks.gradient_attack.GradientAttack`.
        draws: see `attacks.gradient_attack.GradientAttack`.
        alarm: see `attacks.gradient_attack.GradientAttack`.
    """

    continues: ClassVar[bool] = True
    follows: ClassVar[str] = "gatebench (docs/submissions.md)"

    lr: float = 0.05
    lr_end: float = 0.005
    start: str = ""

    def beginning(self, images: Tensor, job: Job) -> Tensor | None:
        """The saved images of the other cell, where it was found."""
        return None if job.start is None else job.start.to(images)
