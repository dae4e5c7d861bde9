"""Which attacks a target did not have to stand that others had: what survives the rest is not what
survives all.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.contracts.cell import Who
from bench.results.records import BoardCell

_NO_LACK = ("ok", "skipped", "withdrawn")


def lacking(cells: Sequence[BoardCell]) -> dict[Who, list[str]]:
    """The attacks of each target that have numbers on another one and none on it: those that came
    to no end there, and those that no run was asked for, as where runs with other attacks were
    merged.

    An attack that is made for some defenses lacks behind no other, and one that knows no defense
    lacks nowhere without one, where its twin that knows all is the same. Rows that were handed in,
    and those that go on from another row, are about one target, and lack nowhere. Of an ensemble,
    the ensemble lacks, not its members.

    Args:
        cells: of one board.
    """
    elsewhere = {cell.attack for cell in cells if cell.status == "ok" and not cell.control}
    found: dict[Who, list[str]] = {}
    for cell in cells:
        if cell.attack in elsewhere and cell.status not in _NO_LACK:
            found.setdefault(cell.who, []).append(cell.attack)
    there = {(cell.who, cell.attack) for cell in cells}
    past = {cell.attack for cell in cells if _knows_no_defense(cell)}
    defenses = _asked_behind(cells)
    for who in dict.fromkeys(cell.who for cell in cells):
        for attack, behind in defenses.items():
            asked = "" in behind or who[1] in behind
            if asked and (who, attack) not in there and (who[1] or attack not in past):
                found.setdefault(who, []).append(attack)
    return found


def _asked_behind(cells: Sequence[BoardCell]) -> dict[str, set[str]]:
    """Label of each attack that all targets have to stand and that has numbers -> the defenses
    ("" for none) that it has cells behind."""
    inside = {
        (cell.who, str(member["label"]))
        for cell in cells
        for member in (cell.inputs.get("attack") or {}).get("members", ())
    }
    own = [
        cell
        for cell in cells
        if not (
            cell.control
            or cell.submission
            or "continued" in cell.flags
            or (cell.who, cell.attack) in inside
        )
    ]
    found: dict[str, set[str]] = {cell.attack: set() for cell in own if cell.status == "ok"}
    for cell in own:
        if cell.attack in found:
            found[cell.attack].add(cell.defense)
    return found


def _knows_no_defense(cell: BoardCell) -> bool:
    attack = cell.inputs.get("attack") or {}
    return bool((attack.get("params") or {}).get("knows") == "network")
