"""The strongest of several cells, image by image: which cells take part, and what a row becomes.

An image's row is that of the member whose saved image executes most MACs, then of the one with the
smallest distortion, then of the earlier member. Evaluations are the sum over members; the trace is
that of running them one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.contracts.cell import Cell
from bench.results.traces import thinned
from bench.store.schema import TRACE_POINTS, names

Row = Mapping[str, Any]
Points = Sequence[tuple[int, int, float]]

_SPENT = names(spent=True)


def member_keys(cell: Cell, cells: Mapping[str, Cell]) -> list[str]:
    """The cells that an ensemble's cell is made of, in the ensemble's order.

    These are its members' on the same target, defense and protocol.
    """
    terms = (cell.target, cell.defense, cell.protocol)
    alike = {
        key: other
        for key, other in cells.items()
        if (other.target, other.defense, other.protocol) == terms
    }
    return [
        key
        for member in cell.attack.members
        for key, other in alike.items()
        if other.attack == member
    ]


def combinations(cells: Mapping[str, Cell]) -> dict[str, list[str]]:
    """Key of each member of an ensemble -> keys of the cells that are combined of it."""
    found: dict[str, list[str]] = {}
    for key, cell in cells.items():
        if cell.is_combined:
            for member in member_keys(cell, cells):
                found.setdefault(member, []).append(key)
    return found


def strongest(candidates: Sequence[Row]) -> tuple[dict[str, Any], int]:
    """(the row of the ensemble, the place of the member that won) for one image."""
    best = max(
        range(len(candidates)),
        key=lambda i: (candidates[i]["adversarial_macs"], -candidates[i]["squared"], -i),
    )
    row = dict(candidates[best])
    row |= {name: sum(candidate[name] or 0 for candidate in candidates) for name in _SPENT}
    points = thinned(trace_in_turn(candidates), TRACE_POINTS)
    row["trace"] = [
        {"evaluations": used, "macs": macs, "squared": near} for used, macs, near in points
    ]
    return row, best


def contributions(tables: Sequence[Sequence[Row]], reserve: float) -> list[float]:
    """Recovery that the ensemble loses without each of its members, as a share; 0 for a lone one.

    Args:
        tables: of each member, its rows, one an image.
        reserve: mean over images of the ceiling less clean MACs; 0 where recovery is undefined.
    """
    macs = [[int(row["adversarial_macs"]) for row in table] for table in tables]
    if reserve <= 0 or len(macs) < 2:
        return [0.0] * len(macs)
    found = []
    for member, own in enumerate(macs):
        others = [column for place, column in enumerate(macs) if place != member]
        rivals = [max(column[image] for column in others) for image in range(len(own))]
        lost = sum(max(0, one - rival) for one, rival in zip(own, rivals, strict=True))
        found.append(lost / len(own) / reserve)
    return found


def trace_in_turn(candidates: Sequence[Row]) -> list[tuple[int, int, float]]:
    """The trace of the best so far when the members run one after the other, all of its points."""
    points: list[tuple[int, int, float]] = []
    before = 0
    for candidate in candidates:
        for point in candidate["trace"]:
            macs, near = point["macs"], point["squared"]
            if not points or (macs, -near) > (points[-1][1], -points[-1][2]):
                points.append((before + point["evaluations"], macs, near))
        before += candidate["evaluations"]
    return points
