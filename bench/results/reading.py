"""The cells of all boards of a run, held against each other: which have numbers, and why not.

A board is made of them; what is measured beside a run (headroom, transfer, latency) and what is
handed in of it take the same cells. Nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from bench.contracts.cell import Cell
from bench.files.canonical import canonical
from bench.plans.stored import StoredBoard, StoredPlan
from bench.results.cells import ReadCell, read_cell, without_numbers
from bench.results.clean import CleanResult, differing_image
from bench.results.records import BoardCell
from bench.store.folder import CellFolder, RunFolder
from bench.store.sealed import ALIKE

_OTHERWISE = "its defense learned otherwise in another cell of this target"
_COSTS = "floor, ceiling or reference are others in another cell of this target"
_READERS, _BLOCK = 2, 16
"""Threads that read cells, and cells that are finished together."""


@dataclass(frozen=True)
class FinishedCell:
    """A cell that has numbers.

    Attributes:
        key: of the cell.
        cell: as it stands in the plan.
        folder: where its rows lie.
        macs: that its attack makes the target execute on its saved images, on average.
        fit_subset: digest of the images that its defense learned from; "" where nothing learns.
    """

    key: str
    cell: Cell
    folder: CellFolder
    macs: float
    fit_subset: str = ""


def finished_cells(
    folder: RunFolder,
    plan: StoredPlan,
    *,
    whole: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> list[list[FinishedCell]]:
    """The cells of each board that the board shows numbers of.

    Args:
        folder: of the run.
        plan: that is stored in it.
        whole: whether their pictures and traces are decoded and checked too, for who goes on to
            read them.
        tell: hears of each cell that was finished and cannot be believed, and why.
    """
    found: list[list[FinishedCell]] = []
    for board, cells in zip(plan.boards, read_boards(folder, plan, whole=whole), strict=True):
        found.append([])
        for (key, cell), one in zip(board.cells.items(), cells, strict=True):
            if one.cell.refused:
                tell(f"{cell.label} is left out: {one.cell.reason} ('gatebench verify' says more)")
            elif one.cell.status == "ok" and one.cell.adversarial_macs is not None:
                macs = one.cell.adversarial_macs
                found[-1].append(FinishedCell(key, cell, folder.cell(key), macs, board.fit_subset))
    return found


def _as_read(cells: Sequence[ReadCell]) -> list[BoardCell]:
    return [one.cell for one in cells]


def read_boards(
    folder: RunFolder,
    plan: StoredPlan,
    *,
    finish: Callable[[Sequence[ReadCell]], list[BoardCell]] = _as_read,
    whole: bool = False,
) -> list[list[ReadCell]]:
    """The cells of each board; those that cannot be believed are without numbers.

    Args:
        folder: of the run.
        plan: that is stored in it.
        finish: makes the cells of a block whole; by default without estimates.
        whole: whether pictures and traces are decoded and checked too.
    """
    read = [_read(folder, plan.command, board, finish, whole) for board in plan.boards]
    return _with_one_clean_result(plan.boards, read)


def _read(
    folder: RunFolder,
    command: str,
    board: StoredBoard,
    finish: Callable[[Sequence[ReadCell]], list[BoardCell]],
    whole: bool,
) -> list[ReadCell]:
    """The cells of a board, and the columns that ranks are made of.

    Cells about other images than most of them are invalid.
    """
    items = list(board.cells.items())
    read: list[ReadCell] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(items), _BLOCK):
            block = list(
                pool.map(
                    lambda one: read_cell(folder.cell(one[0]), command, one[1], whole=whole),
                    items[start : start + _BLOCK],
                )
            )
            cells = finish(block)
            read += [
                ReadCell(cell, one.scores, clean=one.clean)
                for cell, one in zip(cells, block, strict=True)
            ]
    ids = [None if one.clean is None else one.clean.ids for one in read]
    usual = Counter(one for one in ids if one is not None).most_common(1)
    reason = "its rows are about other images than those of the other cells"
    return [
        one if own is None or own == usual[0][0] else ReadCell(without_numbers(one.cell, reason))
        for one, own in zip(read, ids, strict=True)
    ]


def _with_one_clean_result(
    boards: Sequence[StoredBoard], read: Sequence[Sequence[ReadCell]]
) -> list[list[ReadCell]]:
    """The cells of each board; those of a target whose clean results differ between the cells of
    the run are invalid, on every board, as are those whose defense learned otherwise, or whose
    floor, ceiling or reference are others, in a cell that was made alike."""
    evaluated = [
        [_evaluated(board, one) for one in cells] for board, cells in zip(boards, read, strict=True)
    ]
    groups: dict[Hashable, list[CleanResult]] = {}
    for cells, whats in zip(read, evaluated, strict=True):
        for one, what in zip(cells, whats, strict=True):
            if one.clean is not None:
                groups.setdefault(what, []).append(one.clean)
    reasons = dict.fromkeys(_differing(read, evaluated, _costs), _COSTS)
    reasons |= dict.fromkeys(_differing(read, evaluated, _learnt), _OTHERWISE)
    reasons |= {
        what: f"the clean result of {image} differs between the cells of this target, which keeps "
        "state that copies share"
        for what, results in groups.items()
        if (image := differing_image(results))
    }
    return [
        [
            ReadCell(without_numbers(one.cell, reasons[what])) if what in reasons else one
            for one, what in zip(cells, whats, strict=True)
        ]
        for cells, whats in zip(read, evaluated, strict=True)
    ]


def _differing(
    read: Sequence[Sequence[ReadCell]],
    evaluated: Sequence[Sequence[Hashable]],
    of: Callable[[BoardCell], Hashable],
) -> set[Hashable]:
    """Targets of which cells that were made alike differ in something; None is no difference."""
    found: dict[tuple[Hashable, bytes], set[Hashable]] = {}
    for cells, whats in zip(read, evaluated, strict=True):
        for one, what in zip(cells, whats, strict=True):
            value = of(one.cell)
            if one.clean is not None and value is not None:
                alike = {name: one.cell.environment.get(name) for name in ALIKE}
                found.setdefault((what, canonical(alike)), set()).add(value)
    return {what for (what, _), values in found.items() if len(values) > 1}


def _learnt(cell: BoardCell) -> Hashable:
    """A digest of what its defense learned; None where its shards do not say."""
    return cell.environment.get("learnt")


def _costs(cell: BoardCell) -> Hashable:
    return cell.floor, cell.ceiling, cell.reference


def _evaluated(board: StoredBoard, one: ReadCell) -> Hashable:
    """What was evaluated on which clean images: cells that agree in it have one clean result.

    Random targets draw by the seed.
    """
    if one.clean is None:
        return None
    protocol = board.protocol
    seed = protocol.seed if one.clean.draws > 1 else 0
    return one.cell.who, board.dataset, board.subset, protocol.batch, seed, one.clean.ids
