"""The loop of an iterative attack: evaluate, keep, rectify, step, put back inside.

Rows leave when they are done.

The loop owns the budget. A row takes part in a step only while it can pay for the dearest step the
attack may ask of it and for what is held back for the end; when `BudgetSpent` comes all the same,
the loop stops and what was kept is returned.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.best_image import BestImage
from attacks.box import Box, Point
from attacks.optimizer import Optimizer, Schedule, decay
from bench.api import BudgetSpent, Job, Output, View


@dataclass(frozen=True)
class Direction:
    """What an attack says about the iterates it was shown.

    Attributes:
        output: of the iterates.
        loss: (M,) what the attack minimises, distance included.
        gradient: (M, C, H, W) to descend along, with respect to the free variable.
    """

    output: Output
    loss: Tensor
    gradient: Tensor


class StepRule(ABC):
    """One attack's part of the loop: where to go from here.

    Attributes:
        over: the share of the run that is over for every image which goes on, in [0,1]; set by the
            loop before each evaluation, on the host, so that nobody has to ask a device for it.
    """

    over: float = 0.0

    @abstractmethod
    def evaluate(self, point: Point, rows: Tensor, share: Tensor) -> Direction:
        """Evaluate the iterates at `point` of images `rows` (M,), when `share` (M,) of the run is
        over. Rows never mix.
        """

    def adjust(self, step: Tensor, point: Point, rows: Tensor) -> Tensor:
        """The step that is really taken, (M, C, H, W), to be subtracted.

        The optimizer's unless overridden.
        """
        return step


@dataclass(frozen=True)
class Descent:
    """The loop over a batch.

    Attributes:
        view: of the batch.
        job: of the batch.
        clean: (N, C, H, W).
        box: of the free variable.
        optimizer: fresh; its state follows the rows.
        best: what is kept.
        steps: how many evaluations at most, or "budget": as many as the budget pays for.
        cost: forward-equivalents of the dearest step.
        schedule: of the learning rate.
        stop_at_ceiling: a row leaves once its kept image executes all that the target can execute.
        part: (i, n): this is run i of n, for the progress display.
    """

    view: View
    job: Job
    clean: Tensor
    box: Box
    optimizer: Optimizer
    best: BestImage
    steps: int | Literal["budget"]
    cost: int
    schedule: Schedule = "constant"
    stop_at_ceiling: bool = False
    part: tuple[int, int] = (0, 1)

    def run(
        self, rule: StepRule, start: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Descend, offering every evaluated iterate to the best.

        Args:
            rule: the attack.
            start: (N, C, H, W) free variable to start from; the box's own start unless given.
            rows: the images that take part; all unless given.

        Returns:
            (N, C, H, W) the free variable where each row stopped.
        """
        left: list[tuple[Tensor, Tensor]] = []
        end = self._loop(rule, start, rows, left)
        self._last_look(left)
        return end

    def _loop(
        self,
        rule: StepRule,
        start: Tensor | None,
        rows: Tensor | None,
        left: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        """The steps of `run`; the iterates of rows that left and can pay for one more look go to
        `left`."""
        end = self.box.start(self.clean).clone() if start is None else start.clone()
        rows = torch.arange(len(self.clean), device=self.clean.device) if rows is None else rows
        clean = self.clean[rows]
        point = self.box.place(end[rows], clean, self.job.threat)
        first = self.view.left
        taken = 0
        while True:
            share = self._share(rows, taken, first)
            staying, paid, shares = self._fetch(rows, share)
            if bool(staying.any()):
                rule.over = float(shares[staying].min())
                if taken > 0:
                    self._report(rule.over)
            if not bool(staying.all()):
                index = staying.nonzero().flatten().to(rows.device, non_blocking=True)
                last = (paid & ~staying).nonzero().flatten().to(rows.device, non_blocking=True)
                if taken > 0 and len(last) > 0:
                    left.append((rows[last], point.image[last]))
                end[rows] = point.free
                rows, clean = rows[index], clean[index]
                point = Point(
                    point.free[index],
                    point.image[index],
                    None if point.slope is None else point.slope[index],
                )
                self.optimizer.keep(index)
                share = share[index]
            if len(rows) == 0:
                return end
            try:
                seen = rule.evaluate(point, rows, share)
                self.best.offer(rows, point.image, self.best.price(seen.output, rows), seen.loss)
                taken += 1
                if (
                    taken == self.steps
                ):  # the step after the last evaluation would be seen by nobody
                    end[rows] = point.free
                    return end
                step = self.optimizer.step(seen.gradient)
                step = rule.adjust(
                    step if self.schedule == "constant" else step * decay(self.schedule, share),
                    point,
                    rows,
                )
            except BudgetSpent:
                end[rows] = point.free
                return end
            point = self.box.place(point.free - step, clean, self.job.threat)

    def _fetch(self, rows: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the host has to know of each row: the one time in a step that the loop waits for a
        device.

        Returns:
            (M,) bool whether it goes on, (M,) bool whether it could pay for a last look, (M,) its
            share; on the host.
        """
        could = (self.view.left[rows] >= 1 + self.best.reserve) & ~self.best.is_at_ceiling(rows)
        staying = self._may_go_on(rows)
        fetched = torch.stack([staying.to(share.dtype), could.to(share.dtype), share]).cpu()
        return fetched[0] > 0, fetched[1] > 0, fetched[2]

    def _last_look(self, left: list[tuple[Tensor, Tensor]]) -> None:
        """Offer the iterates that the last steps of the rows which left led to, all at once."""
        if not left:
            return
        rows, images = (torch.cat(parts) for parts in zip(*left, strict=True))
        seen = self.view(images, rows)
        unknown = torch.full((len(rows),), torch.inf, device=rows.device)
        self.best.offer(rows, images, self.best.price(seen, rows), unknown)

    def _may_go_on(self, rows: Tensor) -> Tensor:
        needed = self.cost + self.best.reserve
        done = self.best.is_at_ceiling(rows)
        if not self.stop_at_ceiling:
            done &= (
                self.best.distance[rows] == 0
            )  # dearest and unchanged: nothing is left to win at any price
        return (self.view.left[rows] >= needed) & ~done

    def _report(self, share: float) -> None:
        done, parts = self.part
        self.job.progress(round(1000 * (done + share) / parts), 1000)

    def _share(self, rows: Tensor, taken: int, first: Tensor) -> Tensor:
        """(M,) in [0,1]: the part of the run that is over, by steps where they are given, else by
        what each image has spent.
        """
        if isinstance(self.steps, int):
            return torch.full((len(rows),), taken / max(self.steps - 1, 1), device=rows.device)
        spendable = (first[rows] - self.best.reserve - self.cost).clamp(min=1)
        return ((first[rows] - self.view.left[rows]) / spendable).clamp(max=1)
