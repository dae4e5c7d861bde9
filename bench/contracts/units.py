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
                    f"Units.{column.name} has {len(value)} rows, but there are {count} names",
                    hint="every column of Units has one row a unit; Units.gated, chain, "
                    "positions and tokens make them all",
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
                    f"Units.{name} must be {kind}, got {getattr(self, name).dtype}",
                    hint=f"convert it with .to({kind})",
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
                    f"{self.name[int((~settled).nonzero()[0])]}",
                    hint="after names a unit that is decided earlier, or -1 for none",
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
        after = torch.full((count,), -1, dtype=torch.int64)
        return cls._made(names, owners, ((),) * count, cost, after, kind, threshold, 0.0, 1.0, True)

    @classmethod
    def chain(
        cls,
        names: Sequence[str],
        cost: Sequence[int],
        *,
        kind: str = "exit",
        threshold: float = 0.5,
        low: float = 0.0,
        high: float = 1.0,
        strict: bool = True,
    ) -> Units:
        """Units each of which runs only if the one before does: stages behind exits.

        Args:
            names: of the U units, in the order in which they run.
            cost: MACs of the work that each alone guards.
            kind: of all of them.
            threshold: gate value = margin + threshold.
            low: the least gate value; -inf where there is none.
            high: the largest gate value; inf where there is none.
            strict: wanted when margin > 0, else when margin >= 0.

        Examples:
            >>> Units.chain(["stage2", "stage3"], [300, 200]).after.tolist()
            [-1, 0]
        """
        after = torch.arange(len(names)) - 1
        return cls._made(
            names, names, ((),) * len(names), cost, after, kind, threshold, low, high, strict
        )

    @classmethod
    def positions(
        cls,
        owners: Sequence[str],
        shape: tuple[int, int],
        cost: Sequence[int],
        *,
        chained: bool = False,
        threshold: float = 0.5,
        low: float = 0.0,
        high: float = 1.0,
        strict: bool = True,
    ) -> Units:
        """The positions of one or several maps: work that is left out place by place.

        Args:
            owners: blocks or layers, in the order in which they run.
            shape: (H, W) of each map.
            cost: MACs of one position of each owner.
            chained: whether a position runs only if the same place of the owner before does
                (halting).
            threshold: gate value = margin + threshold.
            low: the least gate value; -inf where there is none.
            high: the largest gate value; inf where there is none.
            strict: wanted when margin > 0, else when margin >= 0.

        Returns:
            len(owners) H W units, owner by owner, row by row.

        Examples:
            >>> units = Units.positions(["block0", "block1"], (1, 2), [10, 20], chained=True)
            >>> units.name[1], units.cost.tolist(), units.after.tolist()
            ('block0[0,1]', [10, 10, 20, 20], [-1, -1, 0, 1])
        """
        places = [f"[{y},{x}]" for y in range(shape[0]) for x in range(shape[1])]
        return cls._maps(
            owners, shape, places, cost, chained, "position", threshold, low, high, strict
        )

    @classmethod
    def tokens(
        cls,
        owners: Sequence[str],
        count: int,
        cost: Sequence[int],
        *,
        chained: bool = True,
        threshold: float = 0.5,
        low: float = 0.0,
        high: float = 1.0,
        strict: bool = True,
    ) -> Units:
        """The tokens of the layers of a transformer: a token that was dropped stays dropped.

        Args:
            owners: layers, in the order in which they run.
            count: tokens of each.
            cost: MACs of one token in each layer, without what it shares with others.
            chained: whether a token runs only if it did in the layer before.
            threshold: gate value = margin + threshold.
            low: the least gate value; -inf where there is none.
            high: the largest gate value; inf where there is none.
            strict: wanted when margin > 0, else when margin >= 0.

        Returns:
            len(owners) count units, layer by layer.

        Examples:
            >>> Units.tokens(["layer0", "layer1"], 2, [7, 7]).after.tolist()
            [-1, -1, 0, 1]
        """
        places = [f"[{place}]" for place in range(count)]
        return cls._maps(
            owners, (count,), places, cost, chained, "token", threshold, low, high, strict
        )

    @classmethod
    def _maps(
        cls,
        owners: Sequence[str],
        shape: tuple[int, ...],
        places: Sequence[str],
        cost: Sequence[int],
        chained: bool,
        kind: str,
        threshold: float,
        low: float,
        high: float,
        strict: bool,
    ) -> Units:
        """One map an owner."""
        if len(cost) != len(owners):
            raise ContractBroken(
                f"{len(cost)} costs for {len(owners)} owners; give one each",
                hint="cost is the MACs of one unit, listed once for each owner",
            )
        size = len(places)
        after = torch.arange(len(owners) * size) - size
        return cls._made(
            [f"{owner}{place}" for owner in owners for place in places],
            [owner for owner in owners for _ in places],
            (shape,) * (len(owners) * size),
            [each for each in cost for _ in places],
            after.clamp(min=-1) if chained else torch.full_like(after, -1),
            kind,
            threshold,
            low,
            high,
            strict,
        )

    @classmethod
    def _made(
        cls,
        names: Sequence[str],
        owners: Sequence[str],
        shape: tuple[tuple[int, ...], ...],
        cost: Sequence[int],
        after: Tensor,
        kind: str,
        threshold: float,
        low: float,
        high: float,
        strict: bool,
    ) -> Units:
        """Units that share kind, threshold, range and strictness."""
        column = torch.ones(len(names), dtype=torch.float64)
        return cls(
            name=tuple(names),
            kind=(kind,) * len(names),
            owner=tuple(owners),
            shape=shape,
            cost=torch.tensor(list(cost), dtype=torch.int64),
            threshold=column * threshold,
            low=torch.full_like(column, low),
            high=torch.full_like(column, high),
            strict=torch.full((len(names),), strict, dtype=torch.bool),
            after=after,
        )
