"""The unit table of SACT: which rows belong to which residual unit, and what each stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.api import Units


@dataclass(frozen=True)
class Gate:
    """One residual unit behind the first of its block, as rows of the unit table.

    Attributes:
        block: number from 0.
        unit: number within the block, from 0.
        size: of its map; 0 when the whole image decides.
        first: its first row.
    """

    block: int
    unit: int
    size: int
    first: int

    @property
    def rows(self) -> slice:
        """Its columns among all units."""
        return slice(self.first, self.first + max(1, self.size * self.size))


def list_gates(sizes: Sequence[int], scores: Sequence[int]) -> tuple[Gate, ...]:
    """The gates of a network, in the order of their rows.

    Args:
        sizes: of the map of each block; 0 when the whole image decides.
        scores: of each block; one stands before every residual unit but the first.
    """
    found, first = [], 0
    for block, (size, count) in enumerate(zip(sizes, scores, strict=True)):
        for unit in range(1, count + 1):
            found.append(Gate(block, unit, size, first))
            first = found[-1].rows.stop
    return tuple(found)


def unit_table(gates: Sequence[Gate], cost: Sequence[int], limit: float) -> Units:
    """The units; one comes after the same position one residual unit earlier.

    Args:
        gates: of the network.
        cost: MACs of one row of each.
        limit: the sum of scores at which a position halts.
    """
    name: list[str] = []
    kind: list[str] = []
    owner: list[str] = []
    shape: list[tuple[int, ...]] = []
    after = [torch.zeros(0, dtype=torch.int64)]
    counts = [gate.rows.stop - gate.rows.start for gate in gates]
    for gate, count in zip(gates, counts, strict=True):
        called = f"block{gate.block + 1}.unit{gate.unit + 1}"
        size = gate.size
        places = [f".y{at // size}x{at % size}" for at in range(count)] if size else [""]
        name += [called + place for place in places]
        kind += ["position" if size else "block"] * count
        owner += [called] * count
        shape += [(size, size) if size else ()] * count
        own = torch.arange(count) + gate.first - count
        after.append(own if gate.unit > 1 else torch.full((count,), -1))
    total = len(name)
    return Units(
        name=tuple(name),
        kind=tuple(kind),
        owner=tuple(owner),
        shape=tuple(shape),
        cost=torch.tensor(cost, dtype=torch.int64).repeat_interleave(
            torch.tensor(counts, dtype=torch.int64)
        ),
        threshold=torch.zeros(total, dtype=torch.float64),
        low=torch.full((total,), -math.inf, dtype=torch.float64),
        high=torch.full((total,), limit, dtype=torch.float64),
        strict=torch.ones(total, dtype=torch.bool),
        after=torch.cat(after),
    )
