"""How an attack reaches a target: every use is counted per image, budgeted, and limited to the attack's access."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bench.api import ForkEdit, Losses, Output, Target, Units
from bench.errors import BudgetSpent, ContractBroken

FORWARD = 1
BACKWARD = 2
TRACE_POINTS = 32


class Ledger:
    """What each image of a batch has used, and the best image seen on its way.

    Attributes:
        used, forwards, backwards: (N,) int64.
        budget: forward-equivalents for each image.
        held, flipped: (N,) int64, how many units stood open at an evaluation, and how many of those were closed at the next one.
    """

    def __init__(self, clean: Tensor, budget: int) -> None:
        self.clean = clean
        self.budget = budget
        zeros = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        self.used, self.forwards, self.backwards = zeros.clone(), zeros.clone(), zeros.clone()
        self.held, self.flipped = zeros.clone(), zeros.clone()
        self._decisions: Tensor | None = None
        self._best_macs = zeros - 1
        self._best_distance = torch.full((len(clean),), torch.inf, dtype=torch.float64, device=clean.device)
        self._points: list[list[tuple[int, int, float]]] = [[] for _ in range(len(clean))]

    def charge(self, rows: Tensor, amount: int, what: Tensor, allowed: Tensor | None = None) -> None:
        """Charge `amount` forward-equivalents to each entry of `rows`, counting one `what` for each.

        Args:
            allowed: (N,) how much each image may have used afterwards, where that is less than the budget.

        Raises:
            BudgetSpent: some image cannot pay; nothing is charged.
        """
        uses = torch.bincount(rows, minlength=len(self.clean))
        after = self.used + amount * uses
        if bool((after > self.budget).any()) or (allowed is not None and bool(((after > allowed) & (uses > 0)).any())):
            raise BudgetSpent(f"the budget of {self.budget} forward-equivalents an image is spent")
        self.used.copy_(after)
        what += uses

    def record(self, rows: Tensor, images: Tensor, macs: Tensor) -> None:
        """Remember an image that executes more MACs than any before it, or as many from nearer by."""
        with torch.no_grad():
            distance = (255 * (images - self.clean[rows])).flatten(1).square().sum(1).to(torch.float64)
        better = (macs > self._best_macs[rows]) | ((macs == self._best_macs[rows]) & (distance < self._best_distance[rows]))
        for place in better.nonzero().flatten().tolist():
            row, cost, near = int(rows[place]), int(macs[place]), float(distance[place])
            if cost < self._best_macs[row] or (cost == self._best_macs[row] and near >= self._best_distance[row]):
                continue  # another entry of this call was better
            self._best_macs[row], self._best_distance[row] = cost, near
            self._points[row].append((int(self.used[row]), cost, near))
            if len(self._points[row]) > 8 * TRACE_POINTS:
                self._points[row] = thinned(self._points[row], 4 * TRACE_POINTS)

    def watch(self, rows: Tensor, decisions: Tensor) -> None:
        """Count the open units that the next evaluation of the same image finds closed; calls that name an image twice are left out."""
        if len(rows) != len(rows.unique()):
            return
        if self._decisions is None:
            self._decisions = torch.zeros((len(self.clean), decisions.shape[1]), dtype=torch.bool, device=decisions.device)
        before = self._decisions[rows]
        self.held[rows] += before.sum(1)
        self.flipped[rows] += (before & ~decisions).sum(1)
        self._decisions[rows] = decisions

    def trace(self, row: int) -> list[tuple[int, int, float]]:
        """(forward-equivalents, macs, sum of D^2) of the best image so far, at most `TRACE_POINTS` points."""
        return thinned(self._points[row], TRACE_POINTS)


def thinned(points: list[tuple[int, int, float]], most: int) -> list[tuple[int, int, float]]:
    """At most `most` of the points: every rise of the MACs first, then evenly among the rest; the last always."""
    if len(points) <= most:
        return list(points)
    rises = [i for i, point in enumerate(points) if i == 0 or point[1] > points[i - 1][1]]
    keep = {len(points) - 1, *_even(rises, most - 1)}
    rest = [i for i in range(len(points)) if i not in keep]
    keep.update(_even(rest, most - len(keep)))
    return [points[i] for i in sorted(keep)]


def _even(items: list[int], most: int) -> list[int]:
    if most <= 0 or len(items) <= most:
        return items[: max(most, 0)]
    return [items[i * (len(items) - 1) // max(most - 1, 1)] for i in range(most)]


@dataclass(frozen=True)
class TargetView:
    """The concrete `bench.api.View`.

    Args:
        target: in eval mode, its weights frozen.
        ledger: of the batch; views made by `using` share it.
        access: "gates" or "macs".
        mask_grad: of hard masks while gradients are taken; "target" leaves the target's own.
        allowed: (N,) how much each image may have used in all, where `within` said less than the budget.
    """

    target: Target
    ledger: Ledger
    access: Literal["gates", "macs"] = "gates"
    mask_grad: Literal["target", "ste", "none"] = "target"
    allowed: Tensor | None = None

    @classmethod
    def of(cls, target: Target, clean: Tensor, budget: int, access: Literal["gates", "macs"] = "gates") -> TargetView:
        """A view for a batch of clean images (N, C, H, W), each with its own budget."""
        return cls(target, Ledger(clean, budget), access)

    @property
    def units(self) -> Units:
        return self.target.units

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.target.image_shape

    @property
    def classes(self) -> int:
        return self.target.classes

    @property
    def floor(self) -> int:
        return self.target.floor

    @property
    def ceiling(self) -> int:
        return self.target.ceiling

    @property
    def left(self) -> Tensor:
        return (self.ledger.budget if self.allowed is None else self.allowed) - self.ledger.used

    def using(self, mask_grad: Literal["target", "ste", "none"]) -> TargetView:
        return replace(self, mask_grad=mask_grad)

    def within(self, budget: int) -> TargetView:
        allowed = (self.ledger.used + budget).clamp(max=self.ledger.budget)
        return replace(self, allowed=allowed if self.allowed is None else torch.minimum(allowed, self.allowed))

    def __call__(self, images: Tensor, rows: Tensor) -> Output:
        self._need_gates("outputs")
        with torch.no_grad():
            return self._forward(images, rows)

    def macs(self, images: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self._macs(self._forward(images, rows).decisions)

    def price(self, decisions: Tensor) -> Tensor:
        self._need_gates("decisions")
        return self._macs(decisions)

    def gradients(self, losses: Losses, images: Tensor, rows: Tensor, at_fork: ForkEdit | None = None) -> tuple[Output, tuple[Tensor, ...]]:
        self._need_gates("gradients")
        inputs = images.detach().requires_grad_()
        kept = self.target.mask_grad
        if self.mask_grad != "target":
            self.target.mask_grad = self.mask_grad
        self.target._fork_edit = at_fork
        try:
            with torch.enable_grad():
                output = self._forward(inputs, rows)
                values = list(losses(output))
            grads = [self._backward(i, values, inputs, rows) for i in range(len(values))]
        finally:
            self.target.mask_grad = kept
            self.target._fork_edit = None
        return output.detach(), tuple(grads)

    def _backward(self, index: int, values: list[Tensor], inputs: Tensor, rows: Tensor) -> Tensor:
        loss = values[index]
        if loss.shape != rows.shape:
            raise ContractBroken(f"loss {index} has shape {tuple(loss.shape)}, expected one number a row: {tuple(rows.shape)}")
        open_rows = loss.detach() != 0
        if not loss.requires_grad or not bool(open_rows.any()):
            return torch.zeros_like(inputs)
        self.ledger.charge(rows[open_rows], BACKWARD, self.ledger.backwards, self.allowed)
        self.target._fork_loss = index
        more = any(value.requires_grad for value in values[index + 1 :])
        paid = loss if bool(open_rows.all()) else loss[open_rows]  # a loss of value 0 may have a slope; nobody paid for it
        (grad,) = torch.autograd.grad(paid.sum(), inputs, retain_graph=more, allow_unused=True)
        return torch.zeros_like(inputs) if grad is None else grad

    def _forward(self, images: Tensor, rows: Tensor) -> Output:
        self._check_rows(images, rows)
        self.ledger.charge(rows, FORWARD, self.ledger.forwards, self.allowed)
        output = self.target(images)
        self.ledger.watch(rows, output.decisions)
        self.ledger.record(rows, images, self._macs(output.decisions))
        return output

    def _check_rows(self, images: Tensor, rows: Tensor) -> None:
        """Whoever pays must be named: one row an image, each a place in the batch."""
        count = len(self.ledger.clean)
        if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.shape != (len(images),):
            found = f"{rows.dtype} {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
            raise ContractBroken(f"rows name the image that each evaluated image belongs to: torch.int64 ({len(images)},), got {found}")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < count:
            raise ContractBroken(f"rows are between {int(rows.min())} and {int(rows.max())}, but the batch has {count} images")

    def _macs(self, decisions: Tensor) -> Tensor:
        return self.target.macs(decisions).to(decisions.device)

    def _need_gates(self, what: str) -> None:
        if self.access != "gates":
            raise ContractBroken(f'an attack with access "macs" asked for {what}; it may only call view.macs')
