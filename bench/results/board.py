"""Sealed cells -> a frozen table with statistics and lazy access to the rows of every image.

The board is the only thing that a report sees. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import __version__
from bench.contracts.threat import parse_threat
from bench.results import stats
from bench.results.cells import UNDEFINED_BELOW, description, read_cell, with_estimates
from bench.results.flags import doubted, shrinking
from bench.results.ranking import Contender, rank
from bench.results.records import Board, BoardCell, TargetStanding, Transferred
from bench.results.stats import UNDEFINED
from bench.results.transfer import read_transfer
from bench.store.folder import RunFolder

PRELIMINARY_BELOW = 100
"""Images under which a board is called preliminary."""
_READERS, _BLOCK = 2, 16
"""Threads that read cells, and cells that are resampled together."""


def load_boards(run: str | Path) -> list[Board]:
    """The boards of a run, one a protocol, from what is sealed in its folder.

    Args:
        run: the run's folder.

    Raises:
        RunFolderError: it is no run folder, damaged, or of a newer schema.
    """
    folder = RunFolder(Path(run))
    plan = folder.plan()
    return shrinking([_board(folder, plan, number) for number in range(len(plan["boards"]))])


def _board(folder: RunFolder, plan: Mapping[str, Any], number: int) -> Board:
    document = plan["boards"][number]
    protocol = document["protocol"]
    loaded, scores = _read(folder, plan["command"], protocol, document["cells"])
    ranked = protocol["threat"] != "none"
    flagged = doubted(loaded)
    cells, standings = _ranked(flagged, scores, ranked)
    described = next(
        (found for entry in document["cells"] if (found := description(folder.cell(entry["key"])))),
        {},
    )
    dataset = described.get("dataset", {"name": protocol["dataset"], "note": "", "credits": []})
    n = max((cell.n for cell in cells), default=0)
    return Board(
        name=plan["name"] if len(plan["boards"]) == 1 else f"{plan['name']}: {_terms(protocol)}",
        protocol=protocol,
        plan=plan,
        command=plan["command"],
        dataset=dataset["name"],
        dataset_note=dataset["note"],
        credits=tuple(dataset["credits"]),
        preliminary=n < PRELIMINARY_BELOW,
        ranked=ranked,
        intervals=f"{stats.LEVEL:.0%} intervals, paired bootstrap, n = {n} (Wilson where all agree); ranks by paired tests, Holm",
        version=__version__,
        cells=tuple(cells),
        standings=tuple(standings),
        transfers=tuple(_transfers(folder, number, cells, scores)),
        latency=folder.latency(),
    )


def _read(
    folder: RunFolder,
    command: str,
    protocol: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
) -> tuple[list[BoardCell], list[Mapping[str, stats.Array] | None]]:
    """The cells with their estimates, and the columns that ranks are made of."""
    cells: list[BoardCell] = []
    scores: list[Mapping[str, stats.Array] | None] = []
    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(entries), _BLOCK):
            block = entries[start : start + _BLOCK]
            read = list(pool.map(lambda one: read_cell(folder, command, protocol, one), block))
            cells += with_estimates(read)
            scores += [one.scores for one in read]
    return cells, scores


def _transfers(
    folder: RunFolder,
    number: int,
    cells: Sequence[BoardCell],
    columns: Sequence[Mapping[str, stats.Array] | None],
) -> list[Transferred]:
    """What `gatebench transfer` wrote, against each victim's own clean images."""
    known: dict[str, tuple[int, dict[str, float]]] = {}
    for cell, scores in zip(cells, columns, strict=True):
        if scores is not None and cell.reference is not None:
            name = cell.defended
            known.setdefault(
                name,
                (
                    cell.reference,
                    dict(
                        zip(
                            scores["id"].tolist(),
                            scores["clean_macs"].astype(float).tolist(),
                            strict=True,
                        )
                    ),
                ),
            )
    found = []
    for pair in read_transfer(folder, number):
        if pair["victim"] not in known:
            continue
        ceiling, clean_of = known[pair["victim"]]
        if not set(pair["ids"]) <= set(clean_of):
            continue
        clean = np.array([clean_of[name] for name in pair["ids"]])
        reserve = ceiling - clean
        defined = reserve.mean() >= UNDEFINED_BELOW * ceiling
        recovery = (
            stats.ratio_estimate(pair["macs"] - clean, reserve, stats.resamples(len(clean)))
            if defined
            else UNDEFINED
        )
        found.append(
            Transferred(
                pair["source"], pair["attack"], pair["victim"], recovery, float(pair["macs"].mean())
            )
        )
    return found


def _terms(protocol: Mapping[str, Any]) -> str:
    """What tells the boards of one run apart."""
    return (
        f"{parse_threat(protocol['threat'])}, budget {protocol['budget']}, seed {protocol['seed']}"
    )


def _ranked(
    cells: Sequence[BoardCell], columns: Sequence[Mapping[str, stats.Array] | None], ranked: bool
) -> tuple[list[BoardCell], list[TargetStanding]]:
    """The cells with their ranks, and the standings of the targets, best first."""
    contenders = [
        Contender(
            target=(cell.target, cell.defense),
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
