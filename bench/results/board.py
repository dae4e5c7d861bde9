"""Sealed cells -> a frozen table with statistics and lazy access to the rows of every image.

The board is the only thing that a report sees. Nothing here imports torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import __version__
from bench.contracts.threat import parse_threat
from bench.errors import RunFolderError
from bench.plans.plan import entry_label
from bench.results import stats
from bench.results.flags import doubted, shrinking
from bench.results.ranking import Contender, rank
from bench.results.records import Board, BoardCell, TargetStanding, Transferred
from bench.results.rows import Rows, UnitRow, read_units, unpacked
from bench.results.stats import UNDEFINED
from bench.results.transfer import read_transfer
from bench.store.folder import CellFolder, RunFolder, read_json

UNDEFINED_BELOW = 0.01
"""Recovery is undefined where the reserve, ceiling - clean, is under this share of the ceiling."""
PRELIMINARY_BELOW = 100
"""Images under which a board is called preliminary."""

_COLUMNS = (
    "id label clean_prediction adversarial_prediction clean_macs adversarial_macs float_macs jpeg_macs clean_decisions "
    "adversarial_decisions squared psnr ssim l2 linf evaluations near_threshold overshoot held flipped"
).split()


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
    loaded = [_cell(folder, plan, protocol, entry) for entry in document["cells"]]
    ranked = protocol["threat"] != "none"
    flagged = doubted([cell for cell, _ in loaded])
    cells, standings = _ranked(flagged, [scores for _, scores in loaded], ranked)
    described = next(
        (
            found
            for entry in document["cells"]
            if (found := _description(folder.cell(entry["key"])))
        ),
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
        transfers=tuple(_transfers(folder, number, cells, [scores for _, scores in loaded])),
        latency=folder.latency(),
    )


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


def _description(folder: CellFolder) -> dict[str, Any] | None:
    path = folder.path / "target.json"
    return read_json(path) if path.is_file() else None


def _cell(
    folder: RunFolder,
    plan: Mapping[str, Any],
    protocol: Mapping[str, Any],
    entry: Mapping[str, Any],
) -> tuple[BoardCell, Mapping[str, stats.Array] | None]:
    """A cell with its statistics but no rank, and its columns (None where it has no numbers)."""
    store = folder.cell(entry["key"])
    sealed = store.sealed()
    label = entry["target"]["label"], entry["attack"]["label"]
    cell = BoardCell(
        key=entry["key"],
        target=label[0],
        defense=entry["defense"]["label"] if entry["defense"] else "",
        attack=label[1],
        inputs={name: entry[name] for name in ("target", "defense", "attack")}
        | {"protocol": protocol},
        status="missing",
        reason="not run yet, or not finished",
        control=bool(entry["attack"]["control"]),
        series=entry["attack"].get("series") or label[1],
        command=f"{plan['command']} --only {shlex.quote(entry_label(entry))}",
    )
    if entry.get("excluded"):
        return replace(cell, status="skipped", reason=entry["excluded"]), None
    if sealed is None:
        return cell, None
    cell = replace(
        cell,
        status=sealed["status"],
        reason=sealed["reason"],
        flags=tuple(sealed["flags"]),
        environment=sealed["environment"],
        combination=sealed.get("combination", {}),
        fit=sealed.get("fit", {}),
        sees=_sees(entry, sealed),
    )
    if sealed["status"] != "ok":
        return cell, None
    if wrong := store.altered(sealed["shards"]):
        return replace(
            cell,
            status="invalid",
            reason=f"{wrong[0]} was changed after the cell was sealed; run the same plan again",
        ), None
    described = _description(store)
    if described is None:
        raise RunFolderError(
            f"{store.path / 'target.json'} is not there",
            hint="run the same plan again with --fresh",
        )
    table = store.table(_COLUMNS)
    columns = {
        name: np.array(table[name].to_pylist())
        for name in _COLUMNS
        if not name.endswith("decisions")
    }
    units = read_units(described["units"])
    for name in ("clean_decisions", "adversarial_decisions"):
        columns[name] = unpacked(table[name].to_pylist(), len(units)).sum(1)
    cell = _measured(cell, described, columns, units)
    return replace(cell, rows=Rows(store, len(units))), columns


def _sees(entry: Mapping[str, Any], sealed: Mapping[str, Any]) -> str:
    """What an attack knew; one that never took a gradient saw executed MACs at most."""
    if entry["attack"]["params"].get("knows") == "network":
        return "network"
    return (
        "gates"
        if sealed["aggregates"].get("backwards", 0) or entry["attack"]["control"]
        else "macs"
    )


def _measured(
    cell: BoardCell,
    described: Mapping[str, Any],
    columns: Mapping[str, stats.Array],
    units: tuple[UnitRow, ...],
) -> BoardCell:
    n = len(columns["label"])
    weights = stats.resamples(n)
    floor, ceiling = int(described["floor"]), int(described["ceiling"])
    reference = int(described.get("reference", ceiling))
    clean, adversarial, unrounded, reloaded, held, flipped = (
        columns[name].astype(np.float64)
        for name in ("clean_macs", "adversarial_macs", "float_macs", "jpeg_macs", "held", "flipped")
    )
    reserve = reference - clean
    defined = reserve.mean() >= UNDEFINED_BELOW * reference
    some = reserve > 0
    blocks = len(units) - columns["clean_decisions"].mean()
    return replace(
        cell,
        n=n,
        classes=tuple(described["classes"]),
        floor=floor,
        ceiling=ceiling,
        reference=reference,
        clean_macs=float(clean.mean()),
        adversarial_macs=float(adversarial.mean()),
        float_macs=float(unrounded.mean()),
        recovery=stats.ratio_estimate(adversarial - clean, reserve, weights)
        if defined
        else UNDEFINED,
        float_recovery=stats.ratio_estimate(unrounded - clean, reserve, weights)
        if defined
        else UNDEFINED,
        jpeg_recovery=stats.ratio_estimate(reloaded - clean, reserve, weights)
        if defined and not np.isnan(reloaded).any()
        else UNDEFINED,
        flip_rate=float(flipped.sum() / held.sum()) if held.sum() > 0 else None,
        mean_recovery=(
            stats.mean_estimate(
                (adversarial - clean)[some] / reserve[some], stats.resamples(int(some.sum()))
            )
            if defined
            else UNDEFINED
        ),
        block_recovery=float(
            (columns["adversarial_decisions"] - columns["clean_decisions"]).mean() / blocks
        )
        if blocks > 0
        else None,
        clean_saving=stats.mean_estimate(1 - clean / reference, weights),
        surviving_saving=stats.mean_estimate(1 - adversarial / reference, weights),
        clean_efficacy=stats.mean_estimate(stats.efficacy(clean, floor, ceiling), weights)
        if floor < ceiling
        else UNDEFINED,
        adversarial_efficacy=stats.mean_estimate(
            stats.efficacy(adversarial, floor, ceiling), weights
        )
        if floor < ceiling
        else UNDEFINED,
        clean_accuracy=stats.share_estimate(
            columns["clean_prediction"] == columns["label"], weights
        ),
        adversarial_accuracy=stats.share_estimate(
            columns["adversarial_prediction"] == columns["label"], weights
        ),
        agreement=stats.share_estimate(
            columns["adversarial_prediction"] == columns["clean_prediction"], weights
        ),
        psnr=float(columns["psnr"].mean()),
        pooled_psnr=_pooled(columns),
        ssim=float(columns["ssim"].mean()),
        l2=float(columns["l2"].mean()),
        linf=int(columns["linf"].max()),
        evaluations=float(columns["evaluations"].mean()),
        units=units,
    )


def _pooled(columns: Mapping[str, stats.Array]) -> float | None:
    """dB of the mean squared error; None where no image changed. The number of values follows from PSNR and sum of D^2."""
    changed = columns["squared"] > 0
    if not changed.any():
        return None
    values = columns["squared"][changed][0] * 10 ** (columns["psnr"][changed][0] / 10) / 255**2
    return float(10 * np.log10(255**2 * values / columns["squared"].mean()))


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
