"""Flags that only the company of other cells shows: another attack, or another radius, says that a number is too low."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench import suspicion
from bench.suspicion import Seen
from bench.table import Board, BoardCell
from bench.threat import parse_threat


def doubted(cells: Sequence[BoardCell]) -> list[BoardCell]:
    """The cells of a board, flagged where a black box or a transferred attack on the same defended target won more than they did."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, cell in enumerate(cells):
        if cell.status == "ok" and not cell.control and not cell.combination and cell.recovery.value is not None:
            groups.setdefault((cell.target, cell.defense), []).append(i)
    found = list(cells)
    for members in groups.values():
        seen = [
            Seen(
                cells[i].adversarial_macs or 0,
                (cells[i].reference or 0) - (cells[i].clean_macs or 0),
                cells[i].sees == "macs",
                cells[i].sees == "network",
            )
            for i in members
        ]
        for i, flags in zip(members, suspicion.of_group(seen), strict=True):
            found[i] = _flagged(found[i], flags)
    return found


def shrinking(boards: Sequence[Board]) -> list[Board]:
    """The boards of a run, their cells flagged where the same attack recovered more inside a smaller ball of the same norm."""
    places: dict[tuple[object, ...], list[tuple[int, int, float, float]]] = {}
    for number, board in enumerate(boards):
        radius = _radius(board)
        if radius is None:
            continue
        terms = (board.dataset, board.protocol["images"], board.protocol["budget"], board.protocol["seed"], radius[0])
        for i, cell in enumerate(board.cells):
            if cell.status == "ok" and not cell.control and cell.recovery.value is not None:
                who = (*terms, cell.target, cell.defense, cell.attack)
                places.setdefault(who, []).append((number, i, radius[1], cell.recovery.value))
    lists = [list(board.cells) for board in boards]
    for found in places.values():
        fails = suspicion.shrinks([(radius, recovery) for _, _, radius, recovery in found])
        for (number, i, _, _), fail in zip(found, fails, strict=True):
            if fail:
                lists[number][i] = _flagged(lists[number][i], ["shrinks-with-radius"])
    return [replace(board, cells=tuple(cells)) for board, cells in zip(boards, lists, strict=True)]


def _radius(board: Board) -> tuple[str, float] | None:
    """(norm, a number that grows with the ball); None where there is no ball."""
    threat = parse_threat(board.protocol["threat"])
    if threat.norm == "none":
        return None
    return threat.norm, -float(threat.amount) if threat.norm == "psnr" else float(threat.amount)


def _flagged(cell: BoardCell, flags: Sequence[str]) -> BoardCell:
    return replace(cell, flags=(*cell.flags, *(flag for flag in flags if flag not in cell.flags)))
