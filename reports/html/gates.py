"""Gate maps: which units ran on the clean and on the adversarial image, for blocks, channels,
positions and exits alike.

Units that stand alone (shape `()`) form one strip in network order; units of a shaped owner form
that owner's map. A page holds the decisions as packed bits, and a script draws them; without
scripts the units that changed are listed by name.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from bench.results.row_table import RowTable
from bench.results.rows import ImageRow, UnitRow, pack
from bench.results.stats import Array

MOST_MAPS = 24
"""Maps that are drawn for an image at most."""
MOST_NAMED = 12
"""Units that are listed by name at most."""


@dataclass(frozen=True)
class Owner:
    """Consecutive units `start` to `stop` that belong together; `shape` is `()` for a unit that
    stands alone.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def width(self) -> int:
        """Units a line of its map."""
        return self.shape[-1] if len(self.shape) > 1 else min(self.shape[0], 32)


@dataclass(frozen=True)
class GateMap:
    """One image's decisions before and after.

    Attributes:
        ran_clean: units that ran on the clean image.
        ran_adversarial: units that ran on the adversarial image.
        units: of the target.
        opened: what the attack opened, in words.
        closed: what it closed, in words.
        unshown: owners whose map is left out for size.
        clean: the decisions on the clean image as packed bits, base64.
        adversarial: the same on the adversarial image.
    """

    ran_clean: int
    ran_adversarial: int
    units: int
    opened: str
    closed: str
    unshown: int
    clean: str
    adversarial: str


@dataclass(frozen=True)
class Opening:
    """How often a unit (or, for a map, the mean unit of an owner) ran; `cost` is the largest of its
    units'.
    """

    name: str
    kind: str
    count: int
    cost: int
    clean: float
    adversarial: float


def owners(units: Sequence[UnitRow]) -> tuple[Owner, ...]:
    """The units in their order, gathered into owners. A shape that does not fit its count is read
    as a flat map.
    """
    gathered = []
    position = 0
    for (name, kind, shape), group in groupby(
        units, key=lambda unit: (unit.owner, unit.kind, unit.shape)
    ):
        count = sum(1 for _ in group)
        if shape == ():
            gathered += [
                Owner(name, kind, (), start, start + 1)
                for start in range(position, position + count)
            ]
        else:
            size = max(1, prod(shape))
            whole = count % size == 0
            step = size if whole else count
            for start in range(position, position + count, step):
                one = shape if whole else (count,)
                gathered.append(Owner(name, kind, one, start, start + step))
        position += count
    return tuple(gathered)


def alone(groups: Sequence[Owner]) -> list[int]:
    """The units that stand alone, in network order."""
    return [group.start for group in groups if group.shape == ()]


def shaped(groups: Sequence[Owner]) -> list[Owner]:
    """The owners with a map of their own."""
    return [group for group in groups if group.shape != ()]


def layout(groups: Sequence[Owner]) -> dict[str, Any]:
    """What the script needs to know of a target: its lone units, and its maps with name, start,
    stop, width.
    """
    return {
        "alone": alone(groups),
        "maps": [[one.name, one.start, one.stop, one.width] for one in shaped(groups)[:MOST_MAPS]],
    }


def gate_map(groups: Sequence[Owner], units: Sequence[UnitRow], row: ImageRow) -> GateMap:
    """One image's gates.

    Args:
        groups: of the target's units.
        units: the target's units.
        row: the image.
    """
    clean, adversarial = np.array(row.clean_decisions), np.array(row.adversarial_decisions)
    return GateMap(
        ran_clean=int(clean.sum()),
        ran_adversarial=int(adversarial.sum()),
        units=len(clean),
        opened=_listed(groups, units, adversarial & ~clean),
        closed=_listed(groups, units, clean & ~adversarial),
        unshown=max(0, len(shaped(groups)) - MOST_MAPS),
        clean=bits(clean),
        adversarial=bits(adversarial),
    )


def bits(decisions: Array) -> str:
    """Decisions as packed bits in base64, line by line, first unit in the highest bit."""
    return b64encode(b"".join(pack(np.atleast_2d(decisions)))).decode("ascii")


def _listed(groups: Sequence[Owner], units: Sequence[UnitRow], changed: Array) -> str:
    """Units by name; of a map how many; at most `MOST_NAMED`."""
    found = []
    for group in groups:
        count = int(changed[group.start : group.stop].sum())
        if count:
            found.append(
                units[group.start].name if group.shape == () else f"{group.name} ({count})"
            )
    more = len(found) - MOST_NAMED
    return ", ".join(found[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def overview(
    table: RowTable, order: Sequence[int], groups: Sequence[Owner]
) -> dict[str, Any] | None:
    """Every image a line, every lone unit a column; None where no unit stands alone.

    Args:
        table: the images.
        order: of the lines.
        groups: of the target's units.
    """
    columns = alone(groups)
    if not columns or not len(table):
        return None
    lines = np.asarray(order, dtype=np.int64)
    return {
        "lines": len(lines),
        "columns": len(columns),
        "clean": bits(table.clean_decisions[lines][:, columns]),
        "adversarial": bits(table.adversarial_decisions[lines][:, columns]),
    }


def openings(
    units: Sequence[UnitRow], groups: Sequence[Owner], table: RowTable
) -> tuple[Opening, ...]:
    """Opening rates over all images: a line for each lone unit and for each shaped owner."""
    if not len(table) or not units:
        return ()
    clean = table.clean_decisions.mean(axis=0)
    adversarial = table.adversarial_decisions.mean(axis=0)
    found = []
    for group in groups:
        span = slice(group.start, group.stop)
        found.append(
            Opening(
                name=units[group.start].name if group.shape == () else group.name,
                kind=group.kind,
                count=group.stop - group.start,
                cost=max(unit.cost for unit in units[span]),
                clean=float(clean[span].mean()),
                adversarial=float(adversarial[span].mean()),
            )
        )
    return tuple(found)
