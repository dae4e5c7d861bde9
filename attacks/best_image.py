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

from bench.api import BudgetSpent, Threat, View
from bench.image import settle, to_float, to_grid

Iterate = Literal["best", "first", "last", "loss"]

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
        failures: verifications after which a candidate was dropped.
    """

    def __init__(
        self, view: View, clean: Tensor, threat: Threat, rule: Iterate, *, verify: bool
    ) -> None:
        self.view, self.clean, self.threat = view, clean, threat
        self.rule = "last" if view.draws > 1 and rule in ("best", "first") else rule
        self.verify = verify and self.rule in ("best", "first")
        self.failures = 0
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

    @property
    def reserve(self) -> int:
        """Forward-equivalents an image to hold back for `finish`."""
        return 1 if self.verify else 0

    def is_at_ceiling(self, rows: Tensor) -> Tensor:
        """(M,) bool: the kept images of `rows` execute all that can be executed.

        Of a random target nobody knows.
        """
        return (self.macs[rows] >= self.view.ceiling) & (self.view.draws == 1)

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
            self._take(rows[better], images[better], macs[better], self.distance[rows[better]])
            return
        distance = (images - self.clean[rows]).flatten(1).square().sum(1)
        promising = self._better(rows, macs, distance, NEARER if self.verify else 1.0)
        if not self.verify:
            self._take(rows[promising], images[promising], macs[promising], distance[promising])
            return
        self._pause[rows] -= 1
        due = promising & (self._pause[rows] < 0)
        wait = promising & ~due & (macs >= self._waiting[rows])
        self._waiting[rows[wait]] = macs[wait]
        self._waiting_image[rows[wait]] = images[wait]
        if bool(due.any()):
            self._check(rows[due], images[due], macs[due])

    def finish(self) -> Tensor:
        """Verify what still waits, as far as the budget goes, and return the kept images (N, C, H,
        W).
        """
        waiting = (self._waiting > self.macs) & (self.view.left >= 1)
        rows = waiting.nonzero().flatten()
        if self.verify and len(rows) > 0:
            self._check(rows, self._waiting_image[rows], self._waiting[rows])
        return self.image

    def _better(self, rows: Tensor, macs: Tensor, distance: Tensor, nearer: float) -> Tensor:
        better = macs > self.macs[rows]
        if self.rule == "best":
            better |= (macs == self.macs[rows]) & (distance < nearer * self.distance[rows])
        return better

    def _check(self, rows: Tensor, images: Tensor, macs: Tensor) -> None:
        """Settle and evaluate candidates.

        Those that are on the grid already need no second evaluation.
        """
        saved = to_float(settle(images, self._grid[rows], self.threat)).to(images)
        moved = (saved - images).flatten(1).abs().amax(1) > 1e-6
        if bool(moved.any()):
            macs = macs.clone()
            try:
                macs[moved] = self.view.price(self.view(saved[moved], rows[moved]).decisions)
            except BudgetSpent:
                rows, saved, macs = rows[~moved], saved[~moved], macs[~moved]
        distance = (saved - self.clean[rows]).flatten(1).square().sum(1)
        won = self._better(rows, macs, distance, 1.0)
        self._take(rows[won], saved[won], macs[won], distance[won])
        lost = rows[~won]
        self.failures += len(lost)
        self._gap[rows[won]] = 0
        self._gap[lost] = (2 * self._gap[lost]).clamp(min=1)
        self._pause[rows] = self._gap[rows]
        self._waiting[rows] = -1

    def _take(self, rows: Tensor, images: Tensor, macs: Tensor, distance: Tensor) -> None:
        self.image[rows] = images
        self.macs[rows] = macs
        self.distance[rows] = distance
