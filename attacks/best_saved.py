"""The best image that a search on executed MACs has met: most MACs, then the smallest distance."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.image import squared_sum, to_float, to_grid


class BestSaved:
    """The saved image kept for each of N images.

    Args:
        clean: (N, C, H, W) in [0,1], on the 8-bit grid.

    Attributes:
        grid: (N, C, H, W) uint8, the clean images.
        image: (N, C, H, W) in [0,1], the clean images until something was offered.
        macs: (N,) int64 of the kept image, -1 until something was offered.
    """

    def __init__(self, clean: Tensor) -> None:
        self.grid = to_grid(clean)
        self.image = clean.clone()
        self.macs = torch.full((len(clean),), -1, dtype=torch.int64, device=clean.device)
        self._squared = torch.full_like(self.macs, torch.iinfo(torch.int64).max)

    def offer(
        self, rows: Tensor, saved: Tensor, macs: Tensor, better: Tensor | None = None
    ) -> None:
        """Consider saved images of distinct `rows`.

        Args:
            rows: (M,) int64, which image each of the saved ones belongs to.
            saved: (M, C, H, W) uint8.
            macs: (M,) int64, what they execute.
            better: (M,) bool, which of them are kept; the rule above unless given. A search on a
                random target decides for itself, since the most expensive single draw is biased
                upwards.
        """
        squared = squared_sum(saved.to(torch.int64) - self.grid[rows].to(torch.int64))
        if better is None:
            better = (macs > self.macs[rows]) | (
                (macs == self.macs[rows]) & (squared < self._squared[rows])
            )
        whole = to_float(saved).to(self.image)
        self.image[rows] = torch.where(better[:, None, None, None], whole, self.image[rows])
        self.macs[rows] = torch.where(better, macs, self.macs[rows])
        self._squared[rows] = torch.where(better, squared, self._squared[rows])
