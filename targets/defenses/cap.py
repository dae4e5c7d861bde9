"""A budget cap: units are switched on by margin until the cap, and not one MAC beyond it.

The network still runs once, from front to back. Each group of units (a block, the channels of a
convolution, the positions of a layer, the stage behind an exit) asks to run when its gates are
read. The governor grants it as long as what was granted so far, with everything behind it closed,
stays within the cap; where only a part of a group fits, those with the largest margins get it. So
the cap holds for every image and every attack, as an integer: a deterministic certificate.

After the token caps of DeSparsify (NeurIPS 2024), which drop the least confident tokens beyond the
mean count of a hold-out set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.api import Defense, Governor, Output, Target, Units
from bench.errors import PlanError
from targets.defenses.wrapped import Wrapped
from targets.pieces.counting import picks_rows


class CapGovernor:
    """Grants units while they fit under the cap; one for each evaluation.

    Args:
        target: whose cost counts.
        limit: MACs.
        count: images evaluated together; each has its own account.
    """

    def __init__(self, target: Target, limit: int, count: int, device: torch.device) -> None:
        self.target, self.limit = target, limit
        self.granted = torch.zeros((count, len(target.units)), dtype=torch.bool, device=device)

    def __call__(self, first: int, margins: Tensor, wanted: Tensor) -> Tensor:
        """(N, k) bool; see `bench.api.Governor`."""
        group = slice(first, first + wanted.shape[1])
        allowed = wanted
        over = self._cost(group, wanted) > self.limit
        if not picks_rows(wanted):
            fitting = self._fitting(
                group, margins, wanted, torch.arange(len(over), device=over.device)
            )
            allowed = torch.where(over[:, None], fitting, wanted)
        elif bool(over.any()):
            rows = over.nonzero().squeeze(1)
            allowed = wanted.index_copy(
                0, rows, self._fitting(group, margins[rows], wanted[rows], rows)
            )
        self.granted[:, group] = allowed
        return allowed

    def _fitting(self, group: slice, margins: Tensor, wanted: Tensor, rows: Tensor) -> Tensor:
        """(R, k) bool: as many of the wanted units as fit, largest margins first; found by
        bisection, since cost only grows."""
        order = margins.masked_fill(~wanted, -torch.inf).argsort(
            dim=1, descending=True, stable=True
        )
        place = torch.empty_like(order).scatter_(
            1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
        )
        fits, beyond = torch.zeros_like(rows), wanted.sum(1)
        for _ in range(wanted.shape[1].bit_length()):  # what is settled early stays as it is
            middle = (fits + beyond) // 2
            within = self._cost(group, wanted & (place < middle[:, None]), rows) <= self.limit
            fits, beyond = torch.where(within, middle, fits), torch.where(within, beyond, middle)
        return wanted & (place < fits[:, None])

    def _cost(self, group: slice, chosen: Tensor, rows: Tensor | None = None) -> Tensor:
        trial = self.granted.clone() if rows is None else self.granted[rows]
        trial[:, group] = chosen
        return self.target.macs(trial)


class Capped(Wrapped):
    """A target whose executed MACs never exceed a limit.

    Args:
        inner: passes its decisions through `Target.admit`.
        limit: MACs, at least the inner floor.

    The margin of a unit that was held back is its distance below the last one of its group that was
    granted, without a gradient: pushing it further opens nothing. Those of the granted ones are
    measured from the same place.
    """

    def __init__(self, inner: Target, limit: int) -> None:
        if not inner.admits:
            name = type(inner.undefended).__name__
            raise PlanError(
                f"{name} does not pass its decisions through Target.admit, so no cap can hold it "
                "back"
            )
        if limit < inner.floor:
            raise PlanError(
                f"a cap of {limit} MACs: the network spends {inner.floor} even with everything "
                "closed"
            )
        super().__init__(inner)
        self.limit = min(limit, inner.bound)
        self._groups = tuple(groups(inner.units))

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, C, H, W); forced decisions are carried out as they are."""
        if decisions is not None:
            return self.inner(images, decisions)  # type: ignore[no-any-return]
        with self.inner.evaluating(governor=self._governor(images)):
            output: Output = self.inner(images)
        return self._as_granted(output)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image and leave the work out."""
        if decisions is not None:
            return self.inner.execute(image, decisions)
        with self.inner.evaluating(governor=self._governor(image)):
            output = self.inner.execute(image)
        return self._as_granted(output)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The inner floor, and what is granted when every unit asks to run."""
        least, most = self.inner.extremes()
        if int(self.inner.macs(most)) > self.limit:
            governor = CapGovernor(self.inner, self.limit, 1, most.device)
            for group in self._groups:
                wanted = self.units.admissible(
                    governor.granted.index_fill(1, torch.arange(group.start, group.stop), True)
                )[:, group]
                governor(group.start, torch.zeros(wanted.shape), wanted)
            most = governor.granted
        return least, most

    @property
    def bound(self) -> int:
        """The cap: other mixtures of units may fill it better than those of `extremes`."""
        return self.limit

    def _governor(self, images: Tensor) -> Governor:
        """The cap's governor; one that is there already is asked first."""
        own = CapGovernor(self.inner, self.limit, len(images), images.device)
        before = self.evaluation.governor
        if before is None:
            return own

        def both(first: int, margins: Tensor, wanted: Tensor) -> Tensor:
            return own(first, margins, before(first, margins, wanted))

        return both

    def _as_granted(self, output: Output) -> Output:
        """The output with margins that say what the cap made of them."""
        units, ran = self.units, output.decisions
        after = units.column("after", ran.device)
        reached = (after < 0) | ran[:, after.clamp(min=0)]
        held = units.wanted(output.margins.detach()) & ~ran & reached
        if picks_rows(held) and not bool(held.any()):
            return output
        hard = output.margins.detach()
        cut = torch.zeros_like(hard)
        for group in self._groups:
            rows = held[:, group].any(1)
            if picks_rows(held) and not bool(rows.any()):
                continue
            best = hard[:, group].masked_fill(~held[:, group], -torch.inf).amax(1)
            last = hard[:, group].masked_fill(~ran[:, group], torch.inf).amin(1)
            middle = torch.where(
                last.isfinite(), (best + last) / 2, 2 * best + 1
            )  # nothing granted: all stay clearly below
            cut[:, group] = torch.where(rows, middle, torch.zeros_like(middle))[:, None]
        asked = held | (ran & (cut != 0))
        shifted = torch.where(held, (hard - cut).clamp(max=-_CLEAR), output.margins - cut)
        soft = torch.where(
            held, -output.logit_margins.detach().abs().clamp(min=_CLEAR), output.logit_margins
        )
        return replace(
            output, margins=torch.where(asked, shifted, output.margins), logit_margins=soft
        )


_CLEAR = 1e-7
"""How far below zero a unit that was held back stands at least."""


def groups(units: Units) -> Iterator[slice]:
    """The consecutive units of one owner: what is decided at once."""
    start = 0
    for _, members in groupby(units.owner):
        count = len(list(members))
        yield slice(start, start + count)
        start += count


class Cap(Defense):
    """A budget cap: units run by margin until the cap, and executed MACs never exceed it, whatever
    the image.

    Args:
        limit: share of the undefended ceiling, or "held-out": the `quantile` of executed MACs on
            clean images of the fit split.
        quantile: 0.5 caps every second clean image a little, 1 the dearest of them not at all.

    Multiplies nothing. Under the cap an attacker can still make every image cost the cap, and can
    still attack accuracy: see the attack `accuracy`.
    """

    fits: ClassVar[bool] = True
    follows: ClassVar[str] = "after the token caps of Yehezkel et al., DeSparsify, NeurIPS 2024"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "limit": (0, 1),
        "quantile": (0, 1),
    }

    def __init__(
        self, *, limit: float | Literal["held-out"] = "held-out", quantile: float = 0.5
    ) -> None:
        self.limit, self.quantile = limit, quantile

    def fit(self, target: Target, images: Tensor) -> dict[str, Tensor]:
        """The limit in MACs."""
        if self.limit != "held-out":
            return {
                "limit": torch.tensor(
                    int(self.limit * target.undefended.ceiling), dtype=torch.int64
                )
            }
        with torch.no_grad():
            spent = torch.cat([target.macs(target(part).decisions) for part in images.split(64)])
        place = min(int(self.quantile * len(spent)), len(spent) - 1)
        return {"limit": spent.sort().values[place].cpu()}

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        if "limit" not in learnt:
            raise PlanError(
                'cap: "held-out" needs clean images to choose the limit on; give a share of the '
                "ceiling, or use it in a plan"
            )
        return Capped(target, int(learnt["limit"]))
