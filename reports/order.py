"""In which order every form of a board shows its cells: strongest first on each target."""

from __future__ import annotations

from collections.abc import Iterable

from bench.results.records import Board, BoardCell


def target_order(board: Board) -> list[tuple[str, str]]:
    """(target, defense) of every row, most robust first; those without a standing come last."""
    standing = [(one.target, one.defense) for one in board.standings]
    return list(dict.fromkeys([*standing, *(cell.who for cell in board.cells)]))


def strongest_first(cells: Iterable[BoardCell]) -> list[BoardCell]:
    """Attacks by rank, then by recovery; then controls; then what has no numbers. Cells that agree
    in all of that stay in plan order.
    """
    return sorted(cells, key=_place)


def board_order(board: Board) -> list[BoardCell]:
    """All cells: targets most robust first, the cells of each strongest first."""
    groups: dict[tuple[str, str], list[BoardCell]] = {who: [] for who in target_order(board)}
    for cell in board.cells:
        groups[cell.who].append(cell)
    return [cell for cells in groups.values() for cell in strongest_first(cells)]


def _place(cell: BoardCell) -> tuple[bool, bool, float, float]:
    rank = float("inf") if cell.attack_rank is None else cell.attack_rank
    recovery = float("-inf") if cell.recovery.value is None else cell.recovery.value
    return cell.status != "ok", cell.control, rank, -recovery
