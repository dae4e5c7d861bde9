"""Sealed cells -> a frozen table with statistics and lazy access to the rows of every image.

The board is the only thing that a report sees. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench import __version__
from bench.errors import RunFolderError
from bench.plans.stored import StoredBoard, StoredPlan, read_plan
from bench.results import stats
from bench.results.cells import (
    UNDEFINED_BELOW,
    ReadCell,
    read_cell,
    with_estimates,
    without_numbers,
)
from bench.results.clean import CleanResult, differing_image
from bench.results.flags import with_radius_flags, with_rival_flags
from bench.results.headroom import read_headroom
from bench.results.ranking import Contender, rank
from bench.results.records import Board, BoardCell, TargetStanding, Transferred
from bench.results.stats import UNDEFINED
from bench.results.transfer import TransferredMacs, read_transfer
from bench.store.folder import RunFolder
from bench.store.target import DatasetWords

PRELIMINARY_BELOW = 100
"""Images under which a board is called preliminary."""
T = TypeVar("T")
_READERS, _BLOCK = 2, 16
"""Threads that read cells, and cells that are resampled together."""


def load_boards(run: str | Path, *, whole: bool = False) -> list[Board]:
    """The boards of a run, one a protocol, from what is sealed in its folder.

    Args:
        run: the run's folder.
        whole: whether pictures and traces are decoded and checked too, for who goes on to read
            them: a cell with a damaged one has no numbers.

    Raises:
        RunFolderError: it is no run folder, damaged, or of a newer schema.
    """
    folder = RunFolder(Path(run))
    plan = read_plan(folder)
    read = [_read(folder, plan.command, board, whole) for board in plan.boards]
    agreed = _with_one_clean_result(plan.boards, read)
    return with_radius_flags(
        [_board(folder, plan, number, cells) for number, cells in enumerate(agreed)]
    )


Columns = Mapping[str, stats.Array]


def _board(folder: RunFolder, plan: StoredPlan, number: int, read: Sequence[ReadCell]) -> Board:
    board = plan.boards[number]
    scores = [one.scores for one in read]
    flagged = with_rival_flags([one.cell for one in read])
    ranked = board.protocol.threat.bounded
    cells, standings = _ranked(flagged, scores, ranked)
    unreadable: list[str] = []
    headroom = _readable(lambda: read_headroom(folder, number, board), unreadable) or []
    measured = {entry.who: entry for entry in headroom}
    pairs = _readable(lambda: read_transfer(folder, number, board), unreadable) or []
    words = _dataset_words(folder, board)
    n = max((cell.n for cell in cells), default=0)
    return Board(
        name=plan.name if len(plan.boards) == 1 else f"{plan.name}: {board.terms}",
        protocol=board.protocol.document(),
        plan=plan.document(),
        command=plan.command,
        dataset=words.name,
        dataset_note=words.note,
        credits=words.credits,
        preliminary=n < PRELIMINARY_BELOW,
        ranked=ranked,
        intervals=f"{stats.LEVEL:.0%} intervals, paired bootstrap, n = {n} "
        "(Wilson where all agree); ranks by paired tests, Holm",
        version=__version__,
        cells=tuple(cells),
        standings=tuple(
            replace(one, headroom=measured.get((one.target, one.defense))) for one in standings
        ),
        transfers=tuple(_transfers(pairs, cells, scores)),
        latency=_readable(folder.latency, unreadable),
        terms=board.terms,
        unreadable=tuple(unreadable),
    )


def _readable(read: Callable[[], T], unreadable: list[str]) -> T | None:
    """What was measured beside the cells; where its file is damaged, None, and `unreadable` gets
    the reason."""
    try:
        return read()
    except RunFolderError as error:
        unreadable.append(error.message)
        return None


def _dataset_words(folder: RunFolder, board: StoredBoard) -> DatasetWords:
    """What the data set says of itself, from the first cell that was described."""
    for key in board.cells:
        with contextlib.suppress(RunFolderError):
            return folder.cell(key).target().dataset
    return DatasetWords(board.protocol.dataset, "", ())


def _transfers(
    pairs: Sequence[TransferredMacs], cells: Sequence[BoardCell], columns: Sequence[Columns | None]
) -> Iterator[Transferred]:
    """What `gatebench transfer` wrote, against each victim's own clean images."""
    known: dict[str, tuple[int, dict[str, float]]] = {}
    for cell, scores in zip(cells, columns, strict=True):
        if scores is not None and cell.reference is not None and cell.defended not in known:
            clean = scores["clean_macs"].astype(float).tolist()
            by_id = dict(zip(scores["id"].tolist(), clean, strict=True))
            known[cell.defended] = cell.reference, by_id
    for pair in pairs:
        if pair.victim not in known:
            continue
        ceiling, clean_of = known[pair.victim]
        if not set(pair.ids) <= set(clean_of):
            continue
        macs = np.array([clean_of[name] for name in pair.ids])
        reserve = ceiling - macs
        defined = reserve.mean() >= UNDEFINED_BELOW * ceiling
        weights = stats.resamples(len(macs))
        recovery = (
            stats.ratio_estimate(pair.macs - macs, reserve, weights) if defined else UNDEFINED
        )
        yield Transferred(pair.source, pair.attack, pair.victim, recovery, float(pair.macs.mean()))


def _read(folder: RunFolder, command: str, board: StoredBoard, whole: bool) -> list[ReadCell]:
    """The cells of a board with their estimates, and the columns that ranks are made of.

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
            cells = with_estimates(block)
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
    the run are invalid, on every board."""
    evaluated = [
        [_evaluated(board, one) for one in cells] for board, cells in zip(boards, read, strict=True)
    ]
    groups: dict[Hashable, list[CleanResult]] = {}
    for cells, whats in zip(read, evaluated, strict=True):
        for one, what in zip(cells, whats, strict=True):
            if one.clean is not None:
                groups.setdefault(what, []).append(one.clean)
    reasons = {
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


def _evaluated(board: StoredBoard, one: ReadCell) -> Hashable:
    """What was evaluated on which clean images: cells that agree in it have one clean result.

    Random targets draw by the seed.
    """
    if one.clean is None:
        return None
    protocol = board.protocol
    seed = protocol.seed if one.clean.draws > 1 else 0
    return one.cell.who, board.dataset, board.subset, protocol.batch, seed, one.clean.ids


def _ranked(
    cells: Sequence[BoardCell], columns: Sequence[Columns | None], ranked: bool
) -> tuple[list[BoardCell], list[TargetStanding]]:
    """The cells with their ranks, and the standings of the targets, best first."""
    contenders = [
        Contender(
            target=cell.who,
            macs=None if found is None else found["adversarial_macs"],
            ceiling=cell.reference or 1,
            apart=cell.control or bool(cell.combination) or cell.recovery.value is None,
        )
        for cell, found in zip(cells, columns, strict=True)
    ]
    ranking = rank(contenders, ranked=ranked)
    result = [
        replace(cell, attack_rank=place) for cell, place in zip(cells, ranking.attacks, strict=True)
    ]
    groups = dict.fromkeys(contender.target for contender in contenders)
    strongest = {who: cells[i] for who, i in ranking.strongest.items()}
    standings = [_standing(who, strongest.get(who), ranking.targets.get(who)) for who in groups]
    standings.sort(
        key=lambda row: (row.rank is None, row.rank or 0, -(row.surviving_saving.value or 0))
    )
    return result, standings


def _standing(who: tuple[str, str], cell: BoardCell | None, rank: int | None) -> TargetStanding:
    if cell is None:
        return TargetStanding(*who, None, None, *(UNDEFINED,) * 5, None)
    return TargetStanding(
        target=who[0],
        defense=who[1],
        rank=rank,
        strongest=cell.attack,
        surviving_saving=cell.surviving_saving,
        clean_saving=cell.clean_saving,
        clean_accuracy=cell.clean_accuracy,
        adversarial_accuracy=cell.adversarial_accuracy,
        recovery=cell.recovery,
        psnr=cell.psnr,
    )
