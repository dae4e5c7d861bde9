"""The table of a target's units: the pieces of work that it can leave out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import torch
from torch import Tensor

from bench.errors import ContractBroken


@dataclass(frozen=True)
class Units:
    """The pieces of work a target can leave out; one row a unit, U rows.

    Consecutive units with the same `owner` form one map of `shape`, whose product is the owner's
    number of units: a block is `()`, the positions of a block `(H, W)`, the channels of a
    convolution `(C,)`.

    Attributes:
        name: unique, as shown to people ("group2.block0").
        kind: "block", "channel", "position", "exit" and so on, as shown to people.
        owner: the part of the network that the unit belongs to.
        shape: the map that the owner's units form.
        cost: (U,) int64, MACs of the work that this unit alone guards. It only weighs units in a
            loss: the costs need not add up to anything.
        threshold: (U,) float64; gate value = margin + threshold.
        low: (U,) float64, the least gate value; -inf where there is none.
        high: (U,) float64, the largest gate value; inf where there is none.
        strict: (U,) bool; the unit is wanted when margin > 0, else when margin >= 0.
        after: (U,) int64; index of the unit without which this one cannot run (exits, halting), -1
            if none.
        alarm: (U,) bool; the unit is the response of a defense that detects attacks. It costs work
            like any other, and an attack may want to avoid it (`View.using(alarm="avoid")`). Left
            out: no unit is.
    """

    name: tuple[str, ...]
    kind: tuple[str, ...]
    owner: tuple[str, ...]
    shape: tuple[tuple[int, ...], ...]
    cost: Tensor
    threshold: Tensor
    low: Tensor
    high: Tensor
    strict: Tensor
    after: Tensor
    alarm: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))

    def __post_init__(self) -> None:
        count = len(self.name)
        if not len(self.alarm):
            object.__setattr__(self, "alarm", torch.zeros(count, dtype=torch.bool))
        for column in fields(self):
            value = getattr(self, column.name)
            if len(value) != count:
                raise ContractBroken(
                    f"Units.{column.name} has {len(value)} rows, but there are {count} names"
                )
        kinds = {
            "cost": torch.int64,
            "after": torch.int64,
            "strict": torch.bool,
            "alarm": torch.bool,
        }
        for name, kind in kinds.items():
            if getattr(self, name).dtype != kind:
                raise ContractBroken(
                    f"Units.{name} must be {kind}, got {getattr(self, name).dtype}"
                )

    def __len__(self) -> int:
        return len(self.name)

    def wanted(self, margins: Tensor) -> Tensor:
        """Which units their own margin asks for: (N, U) bool from (N, U) margins."""
        strict = self.column("strict", margins.device)
        return torch.where(strict, margins > 0, margins >= 0)

    def admissible(self, decisions: Tensor) -> Tensor:
        """The largest admissible decisions inside `decisions`.

        Args:
            decisions: (N, U) bool.

        Returns:
            (N, U) bool: a unit runs only if the one that it comes after does.
        """
        closed = decisions.clone()
        for units, parents in self._levels_on(closed.device):
            closed[:, units] &= closed[:, parents]
        return closed

    def column(self, name: str, device: torch.device) -> Tensor:
        """A column on a device, where it is copied to once.

        Args:
            name: of a tensor column: "cost", "threshold", "low", "high", "strict" or "after".
            device: where it is wanted.
        """
        own: Tensor = getattr(self, name)
        if own.device == device:
            return own
        if (name, device) not in self._copies:
            self._copies[name, device] = own.to(device)
        return self._copies[name, device]

    @cached_property
    def _copies(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    def _levels_on(self, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """`_levels` on a device, where they are copied to once."""
        if device not in self._placed_levels:
            self._placed_levels[device] = [
                (units.to(device), parents.to(device)) for units, parents in self._levels
            ]
        return self._placed_levels[device]

    @cached_property
    def _placed_levels(self) -> dict[torch.device, list[tuple[Tensor, Tensor]]]:
        return {}

    @cached_property
    def _levels(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """(units, their parents) by depth: one step down their chains, then two, and so on."""
        levels = []
        settled = self.after < 0
        while not bool(settled.all()):
            ready = ~settled & settled[self.after.clamp(min=0)]
            if not bool(ready.any()):
                raise ContractBroken(
                    "Units.after goes round in a circle at "
                    f"{self.name[int((~settled).nonzero()[0])]}"
                )
            units = ready.nonzero().squeeze(1)
            levels.append((units, self.after[units]))
            settled = settled | ready
        return tuple(levels)

    @classmethod
    def gated(
        cls,
        names: Sequence[str],
        owners: Sequence[str],
        cost: Sequence[int],
        *,
        kind: str = "block",
        threshold: float = 0.5,
    ) -> Units:
        """Independent units with gate values in [0,1], each wanted strictly above `threshold`."""
        count = len(names)
        column = torch.ones(count, dtype=torch.float64)
        return cls(
            name=tuple(names),
            kind=(kind,) * count,
            owner=tuple(owners),
            shape=((),) * count,
            cost=torch.tensor(list(cost), dtype=torch.int64),
            threshold=column * threshold,
            low=column * 0,
            high=column,
            strict=torch.ones(count, dtype=torch.bool),
            after=torch.full((count,), -1, dtype=torch.int64),
        )
