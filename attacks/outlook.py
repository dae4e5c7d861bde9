"""Whether a unit can still be opened: its gap against the speed at which its margin moves.

    v_j <- max(0.9 v_j, |m_j(x) - m_j(x_before)| / ||x - x_before||)
    h_j  = 1 / (1 + (gap_j / (s v_j r))^2)

r is the radius of the ball, and s how many radii a unit may lie away. v_j is seen for free, along
the steps that are taken anyway, where the norms of all margins' gradients would cost a backward
pass each. A unit that is too far away loses its weight, and has it again once its margin moves.
"""

from __future__ import annotations

import torch
from torch import Tensor

FADING = 0.9
"""What is left of the largest speed seen, a step later."""


class Outlook:
    """The speeds of all margins of N images.

    Args:
        count: N.
        radius: of the ball, the norm of the largest change.
    """

    def __init__(self, count: int, radius: float) -> None:
        self.count, self.radius = count, radius
        self._image: Tensor | None = None
        self._margins = self._speed = torch.empty(0)

    def hope(
        self, gap: Tensor, image: Tensor, margins: Tensor, rows: Tensor, radii: float
    ) -> Tensor:
        """(M, U) h in [0,1]; 1 before anything was noted.

        Args:
            gap: (M, U) how far each unit is from its target.
            image: (M, C, H, W) where they stand now.
            margins: (M, U) there.
            rows: (M,) the images.
            radii: s, above 0.
        """
        if self._image is None:
            return torch.ones_like(gap)
        within = (self._seen(image, margins, rows) * (radii * self.radius)).clamp(min=1e-9)
        return 1 / (1 + (gap / within).square())

    def note(self, image: Tensor, margins: Tensor, rows: Tensor) -> None:
        """Remember where images `rows` stood, and their margins."""
        if self._image is None:
            self._image = image.new_zeros(self.count, *image.shape[1:])
            self._margins = margins.new_zeros(self.count, margins.shape[1])
            self._speed = torch.zeros_like(self._margins)
        else:
            self._speed[rows] = self._seen(image, margins, rows)
        self._image[rows], self._margins[rows] = image, margins

    def _seen(self, image: Tensor, margins: Tensor, rows: Tensor) -> Tensor:
        """(M, U) v, the last step included."""
        assert self._image is not None
        moved = (image - self._image[rows]).flatten(1).norm(dim=1)[:, None].clamp(min=1e-6)
        return torch.maximum(
            FADING * self._speed[rows], (margins - self._margins[rows]).abs() / moved
        )
