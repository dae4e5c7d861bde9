"""Which iterate is kept.

Published scripts keep the last iterate, or the one of smallest loss, and score the float image.
What counts is the image that is saved: an iterate that has only just opened a gate may lose it to
rounding. So a candidate can be verified, that is settled onto the 8-bit grid inside its threat and
evaluated once more, at the price of one forward. Verification waits longer after each failure (1,
2, 4 … steps), and one forward is held back for the best candidate still waiting at the end.

Of a random target one look says little: the dearest iterate is the luckiest, and fresh draws score
it worse than where the descent came to rest. There the last iterate is kept.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.api import BudgetSpent, Output, Threat, View
from bench.image import difference, inside, settle, to_float, to_grid

Iterate = Literal["best", "first", "last", "loss"]

UNWANTED = -2
"""The price of an image that is never kept: under that of no image at all."""

NEARER = 0.9
"""Share of the kept squared distance that an equally expensive image must stay below to be worth a
verification.
"""


class BestImage:
    """The image kept for each of N images.

    Args:
        view: of the batch.
        clean: (N, C, H, W), on the 8-bit grid.
        threat: that saved images lie in.
        rule: "best" most executed MACs, then the smallest distance; "first" the earliest of those
            with most MACs; "last" the last evaluated; "loss" the smallest loss (the original ILFO).
        verify: keep saved images by the MACs of their own evaluation; for "best" and "first".

    Attributes:
        image: (N, C, H, W), the clean image until something better is found.
        macs: (N,) its executed MACs; -1 until something was evaluated.
    """

    def __init__(
        self, view: View, clean: Tensor, threat: Threat, rule: Iterate, *, verify: bool
    ) -> None:
        self.view, self.clean, self.threat = view, clean, threat
        self.rule = "last" if view.draws > 1 and rule in ("best", "first") else rule
        self.verify = verify and self.rule in ("best", "first")
        count, device = len(clean), clean.device
        self.image = clean.clone()
        self.macs = torch.full((count,), -1, dtype=torch.int64, device=device)
        self.distance = torch.full((count,), torch.inf, dtype=clean.dtype, device=device)
        self.loss = torch.full((count,), torch.inf, dtype=clean.dtype, device=device)
        self._grid = to_grid(clean) if self.verify else clean
        self._waiting = torch.full_like(self.macs, -1)
        self._waiting_image = self.image.clone() if self.verify else self.image
        self._gap = torch.zeros_like(self.macs)
        self._pause = torch.zeros_like(self.macs)
        self._failures = torch.zeros_like(self.macs)

    @property
    def reserve(self) -> int:
        """Forward-equivalents an image to hold back for `finish`."""
        return 1 if self.verify else 0

    @property
    def failures(self) -> int:
        """Verifications after which a candidate was dropped."""
        return int(self._failures.sum())

    def is_at_ceiling(self, rows: Tensor) -> Tensor:
        """(M,) bool: the kept images of `rows` execute all that can be executed.

        Of a random target nobody knows.
        """
        return (self.macs[rows] >= self.view.ceiling) & (self.view.draws == 1)

    def price(self, output: Output, rows: Tensor) -> Tensor:
        """(M,) int64, what an evaluation of images `rows` is worth: its executed MACs.

        An attack with a condition of its own prices what breaks it at `UNWANTED`.
        """
        return self.view.price(output.decisions)

    def offer(self, rows: Tensor, images: Tensor, macs: Tensor, loss: Tensor) -> None:
        """Consider iterates (M, C, H, W) of distinct images `rows`, with their evaluated `macs` and
        `loss` (M,).
        """
        if self.rule == "last":
            self._take(rows, images, macs, self.distance[rows])
            return
        if self.rule == "loss":
            better = loss < self.loss[rows]
            self.loss[rows] = torch.where(better, loss, self.loss[rows])
            self._take(rows, images, macs, self.distance[rows], better)
            return
        distance = (images - self.clean[rows]).flatten(1).square().sum(1)
        promising = self._better(rows, macs, distance, NEARER if self.verify else 1.0)
        if not self.verify:
            self._take(rows, images, macs, distance, promising)
            return
        self._pause[rows] -= 1
        due = promising & (self._pause[rows] < 0)
        wait = promising & ~due & (macs >= self._waiting[rows])
        self._waiting[rows] = torch.where(wait, macs, self._waiting[rows])
        kept = self._waiting_image[rows]
        self._waiting_image[rows] = torch.where(wait[:, None, None, None], images, kept)
        self._check(rows, images, macs, due)

    def finish(self) -> Tensor:
        """Verify what still waits, as far as the budget goes, and return the kept images (N, C, H,
        W).
        """
        if self.verify:
            waiting = (self._waiting > self.macs) & (self.view.left >= 1)
            rows = torch.arange(len(waiting), device=waiting.device)
            self._check(rows, self._waiting_image, self._waiting, waiting)
        return self.image

    def _better(self, rows: Tensor, macs: Tensor, distance: Tensor, nearer: float) -> Tensor:
        better = macs > self.macs[rows]
        if self.rule == "best":
            better |= (macs == self.macs[rows]) & (distance < nearer * self.distance[rows])
        return better

    def _check(self, rows: Tensor, images: Tensor, macs: Tensor, due: Tensor) -> None:
        """Settle and evaluate the candidates that are `due`, (M,) bool.

        Those that are on the grid already need no second evaluation. The host asks the device once
        which are which.
        """
        chosen, moved = torch.stack([due, due & ~self._settled(rows, images)]).cpu()
        if not bool(chosen.any()):
            return
        index = chosen.nonzero().flatten()
        moved = moved[index].nonzero().flatten().to(rows.device, non_blocking=True)
        rows, images, macs = (
            part if len(index) == len(rows) else part[index.to(part.device, non_blocking=True)]
            for part in (rows, images, macs)
        )
        saved = to_float(settle(images, self._grid[rows], self.threat)).to(images)
        if len(moved) > 0:
            try:
                counts = self.price(self.view(saved[moved], rows[moved]), rows[moved])
            except BudgetSpent:
                still = torch.ones_like(rows, dtype=torch.bool).index_fill(0, moved, False)
                self._judge(rows, saved, macs, still)
                return
            macs = macs.index_copy(0, moved, counts.to(macs.dtype))
        self._judge(rows, saved, macs, torch.ones_like(rows, dtype=torch.bool))

    def _settled(self, rows: Tensor, images: Tensor) -> Tensor:
        """(M,) bool, the images that are saved as they are: on the grid, and inside the threat."""
        grid = to_grid(images)
        apart = (to_float(grid).to(images) - images).flatten(1).abs().amax(1)
        return (apart <= 1e-6) & inside(difference(grid, self._grid[rows]), self.threat)

    def _judge(self, rows: Tensor, saved: Tensor, macs: Tensor, known: Tensor) -> None:
        """Keep the saved candidates that are better, of those whose MACs are `known` (M,)."""
        distance = (saved - self.clean[rows]).flatten(1).square().sum(1)
        won = self._better(rows, macs, distance, 1.0) & known
        lost = ~won & known
        self._take(rows, saved, macs, distance, won)
        self._failures[rows] += lost.to(self._failures.dtype)
        gap = torch.where(lost, (2 * self._gap[rows]).clamp(min=1), self._gap[rows])
        gap = gap.masked_fill(won, 0)
        self._gap[rows] = gap
        self._pause[rows] = torch.where(known, gap, self._pause[rows])
        self._waiting[rows] = self._waiting[rows].masked_fill(known, -1)

    def _take(
        self,
        rows: Tensor,
        images: Tensor,
        macs: Tensor,
        distance: Tensor,
        chosen: Tensor | None = None,
    ) -> None:
        """Keep these images (M, C, H, W) of `rows`, or those that are `chosen`, (M,) bool."""
        if chosen is not None:
            images = torch.where(chosen[:, None, None, None], images, self.image[rows])
            macs = torch.where(chosen, macs, self.macs[rows])
            distance = torch.where(chosen, distance, self.distance[rows])
        self.image[rows] = images
        self.macs[rows] = macs
        self.distance[rows] = distance
