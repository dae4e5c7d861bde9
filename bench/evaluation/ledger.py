"""How an attack reaches a target: every use is counted per image, budgeted, and limited to the attack's access."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.errors import BudgetSpent
from bench.results.traces import thinned
from bench.store.schema import TRACE_POINTS

FORWARD = 1
BACKWARD = 2


class Ledger:
    """What each image of a batch has used, and the best image seen on its way.

    Attributes:
        used, forwards, backwards: (N,) int64.
        budget: forward-equivalents for each image.
        held, flipped: (N,) int64, how many units stood open at an evaluation, and how many of those were closed at the next one.
        seeds: (N,) int64, from which random targets draw while they are attacked; never those that they are scored with.
        looks: how many evaluations there were; each of them draws anew.
    """

    def __init__(self, clean: Tensor, budget: int, seeds: Tensor | None = None) -> None:
        self.clean = clean
        self.budget = budget
        self.seeds = torch.arange(len(clean)) if seeds is None else seeds
        self.looks = 0
        zeros = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        self.used, self.forwards, self.backwards = zeros.clone(), zeros.clone(), zeros.clone()
        self.held, self.flipped = zeros.clone(), zeros.clone()
        self._decisions: dict[int, Tensor] = {}
        self._best_macs = zeros - 1
        self._best_distance = torch.full(
            (len(clean),), torch.inf, dtype=torch.float64, device=clean.device
        )
        self._points: list[list[tuple[int, int, float]]] = [[] for _ in range(len(clean))]

    def charge(
        self, rows: Tensor, amount: int, what: Tensor, allowed: Tensor | None = None
    ) -> None:
        """Charge `amount` forward-equivalents to each entry of `rows`, counting one `what` for each.

        Args:
            allowed: (N,) how much each image may have used afterwards, where that is less than the budget.

        Raises:
            BudgetSpent: some image cannot pay; nothing is charged.
        """
        uses = torch.bincount(rows, minlength=len(self.clean))
        after = self.used + amount * uses
        if bool((after > self.budget).any()) or (
            allowed is not None and bool(((after > allowed) & (uses > 0)).any())
        ):
            raise BudgetSpent(f"the budget of {self.budget} forward-equivalents an image is spent")
        self.used.copy_(after)
        what += uses

    def record(self, rows: Tensor, images: Tensor, macs: Tensor) -> None:
        """Remember an image that executes more MACs than any before it, or as many from nearer by."""
        with torch.no_grad():
            distance = (
                (255 * (images - self.clean[rows])).flatten(1).square().sum(1).to(torch.float64)
            )
        better = (macs > self._best_macs[rows]) | (
            (macs == self._best_macs[rows]) & (distance < self._best_distance[rows])
        )
        for place in better.nonzero().flatten().tolist():
            row, cost, near = int(rows[place]), int(macs[place]), float(distance[place])
            if cost < self._best_macs[row] or (
                cost == self._best_macs[row] and near >= self._best_distance[row]
            ):
                continue  # another entry of this call was better
            self._best_macs[row], self._best_distance[row] = cost, near
            self._points[row].append((int(self.used[row]), cost, near))
            if len(self._points[row]) > 8 * TRACE_POINTS:
                self._points[row] = thinned(self._points[row], 4 * TRACE_POINTS)

    def watch(self, rows: Tensor, decisions: Tensor) -> None:
        """Count the open units that the next evaluation of the same image finds closed; calls that name an image twice are left out."""
        if len(rows) != len(rows.unique()):
            return
        units = decisions.shape[1]  # who knows of no defence sees fewer units than who does
        if units not in self._decisions:
            self._decisions[units] = torch.zeros(
                (len(self.clean), units), dtype=torch.bool, device=decisions.device
            )
        before = self._decisions[units][rows]
        self.held[rows] += before.sum(1)
        self.flipped[rows] += (before & ~decisions).sum(1)
        self._decisions[units][rows] = decisions

    def trace(self, row: int) -> list[tuple[int, int, float]]:
        """(forward-equivalents, macs, sum of D^2) of the best image so far, at most `TRACE_POINTS` points."""
        return thinned(self._points[row], TRACE_POINTS)
