"""Gate maps: which units ran on the clean and on the adversarial image, for blocks, channels, positions and exits alike.

Units that stand alone (shape `()`) form one strip in network order; units of a shaped owner form that owner's map.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod

import numpy as np

from bench.results.rows import ImageRow, UnitRow
from reports.html.pictures import CLOSED, OFF, ON, OPENED, state_map

STATE_NAMES = ("off", "closed", "opened", "on")
STRIP_COLUMNS = 64
_PITCH, _SIDE = 10, 9


@dataclass(frozen=True)
class Owner:
    """Consecutive units `start` to `stop` that belong together; `shape` is `()` for a unit that stands alone."""

    name: str
    kind: str
    shape: tuple[int, ...]
    start: int
    stop: int


@dataclass(frozen=True)
class Drawing:
    """Squares by state, as SVG path data, in a box of `width` by `height`."""

    width: int
    height: int
    paths: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MapPair:
    """One owner's map before and after, as data URIs of one pixel a unit; shown `pixels` wide."""

    owner: str
    kind: str
    width: int
    height: int
    pixels: int
    before: str
    after: str
    opened: int
    closed: int


@dataclass(frozen=True)
class GateMap:
    """One image's decisions before and after; `unshown` owners are left out for size."""

    strip: Drawing | None
    maps: tuple[MapPair, ...]
    unshown: int
    ran_clean: int
    ran_adversarial: int
    units: int


@dataclass(frozen=True)
class Opening:
    """How often a unit (or, for a map, the mean unit of an owner) ran, clean and adversarial; `cost` is the largest of its units'."""

    name: str
    kind: str
    count: int
    cost: int
    clean: float
    adversarial: float


def owners(units: Sequence[UnitRow]) -> tuple[Owner, ...]:
    """The units in their order, gathered into owners. A shape that does not fit its count is read as a flat map."""
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
            for start in range(position, position + count, size if whole else count):
                gathered.append(
                    Owner(
                        name,
                        kind,
                        shape if whole else (count,),
                        start,
                        start + (size if whole else count),
                    )
                )
        position += count
    return tuple(gathered)


def states(row: ImageRow) -> list[int]:
    """The state of every unit over the pair (clean, adversarial)."""
    return [
        _state(before, after)
        for before, after in zip(row.clean_decisions, row.adversarial_decisions, strict=True)
    ]


def _state(before: bool, after: bool) -> int:
    if before:
        return ON if after else CLOSED
    return OPENED if after else OFF


def gate_map(groups: Sequence[Owner], row: ImageRow, *, most_maps: int = 24) -> GateMap:
    """One image's gates: a strip of the units that stand alone, a pair of maps for each shaped owner."""
    paired = states(row)
    alone = [group.start for group in groups if group.shape == () and group.start < len(paired)]
    shaped = [group for group in groups if group.shape != () and group.stop <= len(paired)]
    return GateMap(
        strip=before_and_after([paired[unit] for unit in alone]) if alone else None,
        maps=tuple(_map_pair(group, paired) for group in shaped[:most_maps]),
        unshown=max(0, len(shaped) - most_maps),
        ran_clean=sum(row.clean_decisions),
        ran_adversarial=sum(row.adversarial_decisions),
        units=len(paired),
    )


def before_and_after(paired: Sequence[int], columns: int = STRIP_COLUMNS) -> Drawing:
    """Two lines of squares, before above after, broken every `columns` units."""
    squares: dict[int, list[str]] = {OFF: [], CLOSED: [], OPENED: [], ON: []}
    for index, state in enumerate(paired):
        x, top = _PITCH * (index % columns), (2 * _PITCH + 4) * (index // columns)
        squares[ON if state in (ON, CLOSED) else OFF].append(_square(x, top))
        squares[state].append(_square(x, top + _PITCH))
    lines = -(-len(paired) // columns)
    return _drawing(squares, min(len(paired), columns), lines * (2 * _PITCH + 4) - 5)


def overview(rows: Sequence[ImageRow], groups: Sequence[Owner]) -> Drawing | None:
    """Every image a line, every lone unit a column, by state; None where no unit stands alone."""
    alone = [group.start for group in groups if group.shape == ()]
    if not alone or not rows:
        return None
    squares: dict[int, list[str]] = {OFF: [], CLOSED: [], OPENED: [], ON: []}
    for line, row in enumerate(rows):
        paired = states(row)
        for column, unit in enumerate(alone):
            squares[paired[unit]].append(_square(_PITCH * column, _PITCH * line))
    return _drawing(squares, len(alone), _PITCH * len(rows) - 1)


def _square(x: int, y: int) -> str:
    return f"M{x} {y}h{_SIDE}v{_SIDE}h-{_SIDE}z"


def _drawing(squares: dict[int, list[str]], columns: int, height: int) -> Drawing:
    paths = tuple((STATE_NAMES[state], "".join(parts)) for state, parts in squares.items() if parts)
    return Drawing(max(1, columns * _PITCH - 1), max(1, height), paths)


def _map_pair(group: Owner, paired: Sequence[int]) -> MapPair:
    width = group.shape[-1] if len(group.shape) > 1 else min(group.shape[0], 32)
    cells = list(paired[group.start : group.stop])
    height = -(-len(cells) // width)
    padded = cells + [OFF] * (height * width - len(cells))
    before = [ON if state in (ON, CLOSED) else OFF for state in padded]
    return MapPair(
        owner=group.name,
        kind=group.kind,
        width=width,
        height=height,
        pixels=width * min(10, max(2, 128 // width)),
        before=_data_uri(np.reshape(before, (height, width))),
        after=_data_uri(np.reshape(padded, (height, width))),
        opened=cells.count(OPENED),
        closed=cells.count(CLOSED),
    )


def _data_uri(grid: np.ndarray) -> str:
    return "data:image/png;base64," + b64encode(state_map(grid.tolist())).decode("ascii")


def openings(
    units: Sequence[UnitRow], groups: Sequence[Owner], rows: Sequence[ImageRow]
) -> tuple[Opening, ...]:
    """Opening rates over all images: a line for each lone unit and for each shaped owner."""
    if not rows or not units:
        return ()
    clean = np.mean([row.clean_decisions for row in rows], axis=0)
    adversarial = np.mean([row.adversarial_decisions for row in rows], axis=0)
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
