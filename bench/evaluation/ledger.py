"""What each image of a batch has used of its budget, and the best image seen on its way.

Everything lies on the device of the images. The host waits for it only where it has to decide: when
`rows` are new to it, and when an image might not be able to pay.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from bench.contracts.cell import BACKWARD, FORWARD
from bench.errors import BudgetSpent, ContractBroken
from bench.evaluation.trace import Trace
from bench.results.traces import Point
from bench.terminal import counted


class Ledger:
    """What each image of a batch has used, and the best image seen on its way.

    Args:
        clean: (N, C, H, W) the clean images.
        budget: forward-equivalents for each image.
        seeds: (N,) int64, from which random targets draw; 0 to N - 1 unless given.

    Attributes:
        used: (N,) int64 forward-equivalents.
        forwards: (N,) int64.
        backwards: (N,) int64.
        held: (N,) int64, how many units stood open at an evaluation.
        flipped: (N,) int64, how many of those were closed at the next one.
        seeds: from which random targets draw while they are attacked; never those that they are
            scored with.
        looks: how many evaluations there were; each of them draws anew.
        unpaid: gradients of evaluated images that were taken past the view.
    """

    def __init__(self, clean: Tensor, budget: int, seeds: Tensor | None = None) -> None:
        self.clean = clean
        self.budget = budget
        self.seeds = torch.arange(len(clean)) if seeds is None else seeds
        self.looks = 0
        self.unpaid = 0
        self._paying = False
        zeros = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        self.used, self.forwards, self.backwards = zeros.clone(), zeros.clone(), zeros.clone()
        self.held, self.flipped = zeros.clone(), zeros.clone()
        self._decisions: dict[int, Tensor] = {}
        self._trace = Trace(clean)
        self._room = budget  # at least this much is left for every image
        self._known: tuple[Tensor, int] | None = None  # the rows that were looked at last
        self._uses, self._most = zeros, 0  # of them: how often each image is named, and at most
        self._pending: list[Tensor] = []  # what the device has to say about the last forward pass
        self._before, self._new = (
            self.used,
            zeros,
        )  # what a provisional charge would go back to; its rows
        self._planned: list[tuple[Tensor, Tensor]] = []  # `used` and uses after each backward pass

    def charge(self, rows: Tensor, allowed: Tensor | None = None) -> None:
        """Charge one forward pass to each entry of `rows`.

        On a device, what has to be asked of it is asked by `confirm` or `charge_backward`, after
        the evaluation: one wait serves all. Until then the charge is provisional.

        Args:
            rows: (M,) int64, the images that pay; an image that is named twice pays twice.
            allowed: (N,) how much each image may have used afterwards, where that is less than the
                budget.

        Raises:
            BudgetSpent: some image cannot pay; nothing is charged.
            ContractBroken: a row is none of the batch's.
        """
        known = self._known is not None and self._is_known(rows, *self._known)
        if not known:
            inside = rows.clamp(0, len(self.clean) - 1)
            self._uses = self._count(inside, torch.ones_like(rows, dtype=torch.bool))
            self._known = None
        after = self.used + FORWARD * self._uses
        if known and allowed is None and self._room >= FORWARD * self._most:
            self._room -= FORWARD * self._most
        else:
            ends = rows if len(rows) else rows.new_zeros(1)
            asked = [ends.min(), ends.max(), self._uses.max()]
            self._pending = [*asked, *self._sums(after, self._uses, allowed)]
            self._before, self._new = self.used.clone(), rows
            if rows.device.type == "cpu":
                self.confirm()
        self.used.copy_(after)
        self.forwards += self._uses

    def confirm(self) -> None:
        """Ask the device about a provisional charge, if there is one.

        Raises:
            BudgetSpent, ContractBroken: as in `charge`.
        """
        if self._pending:
            self._settle(torch.stack(self._pending).tolist())

    def charge_backward(
        self, rows: Tensor, masks: Sequence[Tensor], allowed: Tensor | None = None
    ) -> list[bool | None]:
        """What backward passes of several losses would come to, asked of the device at once, with
        what is provisional.

        Args:
            rows: (M,) int64, as charged for the forward pass.
            masks: of each loss, (M,) bool: the rows that ask for a backward pass.
            allowed: as in `charge`.

        Returns:
            Of each loss: whether any row asks; None where an image cannot pay.

        Raises:
            BudgetSpent, ContractBroken: of the forward pass, as in `charge`.
        """
        inside = rows.clamp(0, len(self.clean) - 1)
        uses = [self._count(inside, mask) for mask in masks]
        after, sums = self.used, list(self._pending)
        self._planned = []
        for use in uses:
            after = after + BACKWARD * use
            sums += [use.sum(), *self._sums(after, use, allowed)]
            self._planned.append((after, use))
        found = torch.stack(sums).tolist() if sums else []
        if self._pending:
            found = found[self._settle(found) :]
        asked: list[bool | None] = []
        for place in range(len(uses)):
            count, over, room = found[3 * place : 3 * place + 3]
            asked.append(None if over else bool(count))
            self._room = room if not over else self._room
        return asked

    def pay(self, index: int) -> None:
        """Carry out the charge of loss `index` of the last `charge_backward`."""
        after, use = self._planned[index]
        self.used.copy_(after)
        self.backwards += use

    @contextlib.contextmanager
    def paying(self) -> Iterator[None]:
        """Around a backward pass that was paid for."""
        self._paying = True
        try:
            yield
        finally:
            self._paying = False

    def note_gradient(self, passes: list[bool]) -> None:
        """Note that a gradient has reached the images of an evaluation.

        Args:
            passes: of this evaluation, one entry a gradient.
        """
        passes.append(self._paying)
        self.unpaid += not self._paying

    def spent(self) -> BudgetSpent:
        """What to raise where an image cannot pay."""
        return BudgetSpent(f"the budget of {self.budget} forward-equivalents an image is spent")

    def record(self, rows: Tensor, images: Tensor, macs: Tensor) -> None:
        """Remember an image that executes more MACs than any before, or as many from nearer by."""
        if self._most <= 1:
            self._trace.add(rows, images, macs, self.used[rows])
            return
        for places in _one_each(rows.tolist()):  # the same image several times: one after the other
            index = torch.tensor(places, device=rows.device)
            self._trace.add(rows[index], images[index], macs[index], self.used[rows[index]])

    def watch(self, rows: Tensor, decisions: Tensor) -> None:
        """Count the open units that the next evaluation of the same image finds closed.

        Calls that name an image twice are left out.
        """
        if self._most > 1:
            return
        units = decisions.shape[1]  # who knows of no defense sees fewer units than who does
        if units not in self._decisions:
            self._decisions[units] = torch.zeros(
                (len(self.clean), units), dtype=torch.bool, device=decisions.device
            )
        before = self._decisions[units][rows]
        self.held[rows] += before.sum(1)
        self.flipped[rows] += (before & ~decisions).sum(1)
        self._decisions[units][rows] = decisions

    def trace(self, row: int) -> list[Point]:
        """(forward-equivalents, macs, sum of D^2) of the best image of image `row`, thinned."""
        return self._trace.points(row)

    def _settle(self, found: list[int]) -> int:
        """Judge a provisional charge by what the device says of it, and take it back where it
        cannot stand.

        Returns:
            How many of the numbers `found` are about it.
        """
        least, most, times, over, room = found[:5]
        count, rows = len(self.clean), self._new
        self._pending = []
        if over or not 0 <= least <= most < count:
            self.forwards -= (
                self.used - self._before
            )  # nothing where the charge was not carried out yet
            self.used.copy_(self._before)
        if not 0 <= least <= most < count:
            raise ContractBroken(
                f"rows are between {least} and {most}, but the batch has {counted(count, 'image')}",
                hint="rows are places in the batch, from 0 on: torch.arange(len(images))"
                " names each once",
            )
        if over:
            raise self.spent()
        self._most, self._room = times, room
        on_host = rows.device.type == "cpu"
        self._known = (rows.clone(), -1) if on_host else (rows, rows._version)
        return 5

    @staticmethod
    def _is_known(rows: Tensor, known: Tensor, version: int) -> bool:
        """Whether these are the rows that were looked at last: by value on the host, by identity on
        a device."""
        if rows.device.type == "cpu":
            return torch.equal(rows, known)
        return rows is known and rows._version == version

    def _count(self, rows: Tensor, mask: Tensor) -> Tensor:
        """(N,) int64, how many of `rows` (M,) name each image, where `mask` (M,) says so."""
        zeros = torch.zeros_like(self.used)
        return zeros.index_add_(0, rows, mask.to(torch.int64))

    def _sums(self, after: Tensor, uses: Tensor, allowed: Tensor | None) -> list[Tensor]:
        """[1 where some image cannot pay, what is left for the poorest image]."""
        over = after > self.budget
        if allowed is not None:
            over = over | ((after > allowed) & (uses > 0))
        return [over.any().to(torch.int64), self.budget - after.max()]


def check_paid(evaluated: int, ledger: Ledger, who: str) -> None:
    """Whether an attack evaluated the target through its view only.

    Args:
        evaluated: images that the target evaluated while the attack ran.
        ledger: of the attack.
        who: the attack, for the message.

    Raises:
        ContractBroken: the target evaluated more images than were paid for, or gradients were taken
            of a graph that was kept.
    """
    if ledger.unpaid:
        raise ContractBroken(
            f"{who} took {ledger.unpaid} gradients of its own, which are not paid for",
            hint="return the losses; view.gradients takes one gradient of each",
        )
    paid = int(ledger.forwards.sum())
    if evaluated > paid:
        raise ContractBroken(
            f"{who} evaluated the target on {counted(evaluated - paid, 'image')} past its view",
            hint="evaluate by calling the view, its gradients or its macs",
        )


def _one_each(rows: list[int]) -> list[list[int]]:
    """Places of `rows`, in groups that name no image twice: first mentions, second mentions, and so
    on."""
    groups: list[list[int]] = []
    seen: dict[int, int] = {}
    for place, row in enumerate(rows):
        turn = seen.get(row, 0)
        seen[row] = turn + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(place)
    return groups
