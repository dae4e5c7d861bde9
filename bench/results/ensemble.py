"""The strongest of several sealed cells, image by image, as a cell of its own (AutoEnergy).

An image's row is that of the member whose saved image executes most MACs, then of the one with the smallest distortion, then of the
earlier member. Evaluations are the sum over members; the trace is that of running them one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results.rows import TRACE_POINTS
from bench.store.folder import CellFolder

Entry = Mapping[str, Any]
_SUMMED = ("evaluations", "forwards", "backwards", "held", "flipped")


@dataclass(frozen=True)
class Member:
    """A cell that takes part: its key, its label, its folder, what was sealed; whether it sees MACs alone, or past the defence."""

    key: str
    label: str
    folder: CellFolder
    sealed: Mapping[str, Any]
    black_box: bool
    past: bool


def is_combined(entry: Entry) -> bool:
    """Whether a cell is computed from other cells rather than run."""
    return bool(entry["attack"].get("members"))


def member_keys(entry: Entry, entries: Mapping[str, Entry]) -> list[str]:
    """The cells that an ensemble's cell is made of: its members' on the same target, defence and protocol, in the ensemble's order."""
    found = []
    for member in entry["attack"]["members"]:
        for key, other in entries.items():
            if other["attack"] == member and all(
                other[name] == entry[name] for name in ("target", "defense", "protocol")
            ):
                found.append(key)
    return found


def strongest(candidates: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], int]:
    """(the row of the ensemble, the place of the member that won) for one image."""
    best = max(
        range(len(candidates)),
        key=lambda i: (candidates[i]["adversarial_macs"], -candidates[i]["squared"], -i),
    )
    row = dict(candidates[best])
    row |= {name: sum(candidate[name] or 0 for candidate in candidates) for name in _SUMMED}
    return row | {"trace": _one_after_the_other(candidates)}, best


def _one_after_the_other(candidates: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The trace of the best so far when the members run in turn."""
    points: list[dict[str, Any]] = []
    before = 0
    for candidate in candidates:
        for point in candidate["trace"]:
            last = points[-1] if points else None
            if last is None or (point["macs"], -point["squared"]) > (
                last["macs"],
                -last["squared"],
            ):
                points.append({**point, "evaluations": before + point["evaluations"]})
        before += candidate["evaluations"]
    rises = [
        point for i, point in enumerate(points) if i == 0 or point["macs"] > points[i - 1]["macs"]
    ]
    return points if len(points) <= TRACE_POINTS else [*rises[: TRACE_POINTS - 1], points[-1]]
