"""Sealed cells -> a frozen table with statistics and lazy access to the rows of every image.

The board is the only thing that a report sees. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from bench import __version__
from bench.errors import RunFolderError
from bench.plans.stored import StoredBoard, StoredPlan, read_plan
from bench.results import stats
from bench.results.cells import ReadCell, with_estimates
from bench.results.flags import with_radius_flags, with_rival_flags
from bench.results.headroom import held_against_all, read_headroom
from bench.results.lacking import lacking
from bench.results.latency import read_latency
from bench.results.ranking import Contender, rank
from bench.results.reading import read_boards
from bench.results.records import Board, BoardCell, TargetStanding, Transferred
from bench.results.stats import UNDEFINED
from bench.results.transfer import TransferredMacs, read_transfer
from bench.store.folder import RunFolder
from bench.store.target import DatasetWords

PRELIMINARY_BELOW = 100
"""Images under which a board is called preliminary."""
T = TypeVar("T")


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
    read = read_boards(folder, plan, finish=with_estimates, whole=whole)
    return with_radius_flags(
        [_board(folder, plan, number, cells) for number, cells in enumerate(read)]
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
    finished = {cell.key for cell, found in zip(cells, scores, strict=True) if found is not None}
    measured = {entry.who: entry for entry in held_against_all(headroom, board, finished)}
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
        latency=_readable(lambda: read_latency(folder, plan), unreadable),
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
    """What `gatebench transfer` wrote, against each victim's own clean images; only of sources that
    the board has numbers of."""
    known: dict[str, tuple[int, dict[str, float]]] = {}
    sources: set[tuple[str, str]] = set()
    for cell, scores in zip(cells, columns, strict=True):
        if scores is not None:
            sources.add((cell.defended, cell.attack))
        if scores is not None and cell.reference is not None and cell.defended not in known:
            clean = scores["clean_macs"].astype(float).tolist()
            by_id = dict(zip(scores["id"].tolist(), clean, strict=True))
            known[cell.defended] = cell.reference, by_id
    for pair in pairs:
        if pair.victim not in known or (pair.source, pair.attack) not in sources:
            continue
        ceiling, clean_of = known[pair.victim]
        if not set(pair.ids) <= set(clean_of):
            continue
        macs = np.array([clean_of[name] for name in pair.ids])
        weights = stats.resamples(len(macs))
        recovery = (
            stats.ratio_estimate(pair.macs - macs, ceiling - macs, weights)
            if stats.has_reserve(macs, ceiling)
            else UNDEFINED
        )
        yield Transferred(pair.source, pair.attack, pair.victim, recovery, float(pair.macs.mean()))


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
    lacks = lacking(cells)
    attacked = {cell.who for cell in cells if cell.status == "ok" and not cell.control}
    spared = {cell.who for cell in cells} - attacked
    ranking = rank(contenders, ranked=ranked, incomplete=[*lacks, *spared])
    result = [
        replace(cell, attack_rank=place) for cell, place in zip(cells, ranking.attacks, strict=True)
    ]
    groups = dict.fromkeys(contender.target for contender in contenders)
    strongest = {who: cells[i] for who, i in ranking.strongest.items()}
    standings = [
        replace(
            _standing(who, strongest.get(who), ranking.targets.get(who), who in attacked),
            lacks=tuple(lacks.get(who, ())),
        )
        for who in groups
    ]
    standings.sort(
        key=lambda row: (row.rank is None, row.rank or 0, -(row.surviving_saving.value or 0))
    )
    return result, standings


def _standing(
    who: tuple[str, str], cell: BoardCell | None, rank: int | None, attacked: bool
) -> TargetStanding:
    """A target under the strongest of its cells; what controls alone leave of a saving says nothing
    of attacks."""
    nothing = TargetStanding(*who, None, None, *(UNDEFINED,) * 5, None)
    if cell is None:
        return nothing
    if not attacked:
        return replace(nothing, clean_saving=cell.clean_saving, clean_accuracy=cell.clean_accuracy)
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
