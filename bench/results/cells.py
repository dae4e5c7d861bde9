"""A sealed cell -> its statistics: one pass over its shards, no pictures kept."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from bench.contracts.cell import Cell
from bench.errors import RunFolderError
from bench.files.canonical import canonical
from bench.files.regular import read_regular
from bench.results import stats
from bench.results.clean import CleanResult
from bench.results.records import BoardCell
from bench.results.resampling import Request, estimates
from bench.results.rows import Rows, unit_rows
from bench.results.stats import Estimate
from bench.store.folder import CellFolder
from bench.store.measured import check_measured
from bench.store.schema import DECISIONS, names, packed_bits
from bench.store.sealed import Sealed
from bench.store.submission import read_submission, read_withdrawal
from bench.store.target import TargetDescription

_KEPT = ("id", "clean_macs", "adversarial_macs", "clean_correct", "adversarial_correct")
"""Columns of every cell that are kept once its statistics are there."""


@dataclass(frozen=True)
class ReadCell:
    """A cell as it was read, before anything is resampled.

    Attributes:
        cell: with its plain numbers.
        scores: the columns that ranks and baselines are made of, (n,) each: ids, executed MACs and
            right answers, clean and adversarial; None where the cell has no numbers.
        requests: what is to be resampled.
        agreed: estimates that need no resampling.
        clean: what it says of the clean images, None where the cell has no numbers.
    """

    cell: BoardCell
    scores: Mapping[str, stats.Array] | None = None
    requests: tuple[Request, ...] = ()
    agreed: Mapping[str, Estimate] = field(default_factory=dict)
    clean: CleanResult | None = None


def read_cell(folder: CellFolder, command: str, cell: Cell, *, whole: bool) -> ReadCell:
    """A cell with everything but its estimates and its rank; a damaged one is invalid.

    Args:
        folder: of the cell.
        command: that repeats the run.
        cell: as it stands in the plan.
        whole: whether its pictures and traces are decoded and checked too.
    """
    target, defense, attack = cell.labels
    found = BoardCell(
        key=folder.key,
        target=target,
        defense=defense,
        attack=attack,
        inputs={**cell.components(), "protocol": cell.protocol.document()},
        status="missing",
        reason="not run yet, or not finished",
        control=cell.attack.control,
        series=cell.attack.series or attack,
        command="" if cell.is_handed_in else _repeating(command, cell.label),
    )
    if cell.excluded:
        return ReadCell(replace(found, status="skipped", reason=cell.excluded))
    try:
        return _sealed(folder, cell, found, whole)
    except RunFolderError as error:
        reason = error.message
    except ValueError as error:
        reason = f"its rows do not hold: {error}"
    return ReadCell(replace(found, status="invalid", reason=reason, refused=True))


def _repeating(command: str, label: str) -> str:
    """The command that repeats a cell: that of its run, for this cell alone where it is one `run`.
    Those of merged runs, of `beat` and of programs have no such option, or more than one plan."""
    alone = command.startswith("gatebench run ") and " && " not in command
    return f"{command} --only {shlex.quote(label)}" if alone else command


def _sealed(folder: CellFolder, cell: Cell, found: BoardCell, whole: bool) -> ReadCell:
    """A cell as it was sealed.

    Raises:
        RunFolderError: a document or a shard of it is damaged.
        ValueError: its rows are not those of its protocol, or its terms do not allow them.
    """
    sealed = folder.sealed()
    if sealed is None:
        return ReadCell(found)
    found = replace(
        found,
        status=sealed.status,
        reason=sealed.reason,
        flags=sealed.flags,
        environment=sealed.environment,
        combination=sealed.combination.document() if sealed.combination else {},
        fit=asdict(sealed.fit) if sealed.fit else {},
        sees=_sees(cell, sealed),
        submission=read_submission(folder.path) if cell.is_handed_in else None,
    )
    withdrawal = read_withdrawal(folder.path)
    if withdrawal is not None:
        return ReadCell(replace(found, status="withdrawn", reason=withdrawal.reason))
    if sealed.status != "ok":
        return ReadCell(found)
    target = folder.target()
    table, wrong = folder.sealed_table(
        sealed.shards, names(plain=True), whole=whole, size=target.picture_size
    )
    if wrong:
        reason = f"{wrong[0]} was changed after the cell was sealed; run the same plan again"
        return ReadCell(replace(found, status="invalid", reason=reason, refused=True))
    check_measured(table, cell, target, sealed.combination)
    clean, units = CleanResult.of(table, target), len(target.units)
    others = [name for name in table.column_names if name not in (*DECISIONS, "id")]
    columns = {name: table[name].to_numpy() for name in others}
    columns["id"] = np.array(clean.ids, dtype=object)
    attacked = packed_bits(table["adversarial_decisions"].to_pylist(), units)
    for name, packed in zip(DECISIONS, (clean.decisions, attacked), strict=True):
        columns[name] = np.unpackbits(packed, axis=1, count=units).sum(1, dtype=np.int64)
    for which in ("clean", "adversarial"):
        columns[f"{which}_correct"] = columns[f"{which}_prediction"] == columns["label"]
    requests, shares = _requests(target, columns)
    rows = Rows(folder, units, target.picture_size)
    digest = hashlib.sha256(canonical(dict(sealed.shards)))
    digest.update(read_regular(folder.path / "target.json"))
    measured = replace(_measured(found, target, columns), rows=rows, digest=digest.hexdigest())
    scores = {name: columns[name] for name in _KEPT}
    return ReadCell(measured, scores, requests, shares, clean)


def without_numbers(cell: BoardCell, reason: str) -> BoardCell:
    """An invalid cell: what it is, and why it has no numbers."""
    return BoardCell(
        key=cell.key,
        target=cell.target,
        defense=cell.defense,
        attack=cell.attack,
        inputs=cell.inputs,
        status="invalid",
        reason=reason,
        control=cell.control,
        series=cell.series,
        flags=cell.flags,
        environment=cell.environment,
        command=cell.command,
        submission=cell.submission,
        refused=True,
    )


def _sees(cell: Cell, sealed: Sealed) -> str:
    """What an attack knew; one that ran and never took a gradient, in a fit either, saw executed
    MACs at most."""
    if cell.is_handed_in:
        return "unknown"
    if cell.attack.params.get("knows") == "network":
        return "network"
    searched = sealed.status == "ok" and sealed.fit is None and not cell.attack.control
    return "macs" if searched and not sealed.aggregates.get("backwards", 0) else "gates"


def _requests(
    target: TargetDescription, columns: Mapping[str, stats.Array]
) -> tuple[tuple[Request, ...], dict[str, Estimate]]:
    """What is to be resampled, and the shares that all images agree on, which are not."""
    floor, ceiling, reference = target.floor, target.ceiling, target.reference
    clean, adversarial, unrounded, reloaded = (
        columns[name].astype(np.float64)
        for name in ("clean_macs", "adversarial_macs", "float_macs", "jpeg_macs")
    )
    reserve = reference - clean
    defined = stats.has_reserve(clean, reference)
    some = reserve > 0
    means = {
        "clean_saving": 1 - clean / reference,
        "surviving_saving": 1 - adversarial / reference,
    }
    ratios = {}
    if defined:
        ratios["recovery"] = adversarial - clean, reserve
        ratios["float_recovery"] = unrounded - clean, reserve
        if not np.isnan(reloaded).any():
            ratios["jpeg_recovery"] = reloaded - clean, reserve
    if floor < ceiling:
        means["clean_efficacy"] = stats.efficacy(clean, floor, ceiling)
        means["adversarial_efficacy"] = stats.efficacy(adversarial, floor, ceiling)
    agreed = {}
    for name, hits in (
        ("clean_accuracy", columns["clean_correct"]),
        ("adversarial_accuracy", columns["adversarial_correct"]),
        ("agreement", columns["adversarial_prediction"] == columns["clean_prediction"]),
    ):
        if hits.all() or not hits.any():
            agreed[name] = stats.agreed_share(hits)
        else:
            means[name] = hits.astype(np.float64)
    if not defined or not some.any():
        return (Request(means, ratios),), agreed
    per_image = {"mean_recovery": (adversarial - clean)[some] / reserve[some]}
    if some.all():
        return (Request(means | per_image, ratios),), agreed
    return (Request(means, ratios), Request(per_image)), agreed


def with_estimates(read: Sequence[ReadCell]) -> list[BoardCell]:
    """The cells with their estimates, all resampled together.

    Args:
        read: cells of one board.
    """
    found = iter(estimates([request for one in read for request in one.requests]))
    cells = []
    for one in read:
        values: dict[str, Any] = dict(one.agreed)
        for _ in one.requests:
            values |= next(found)
        cells.append(replace(one.cell, **values))
    return cells


def _measured(
    cell: BoardCell, target: TargetDescription, columns: Mapping[str, stats.Array]
) -> BoardCell:
    """The cell with its plain numbers."""
    n = len(columns["label"])
    held, flipped = (columns[name].astype(np.float64).sum() for name in ("held", "flipped"))
    blocks = len(target.units) - columns["clean_decisions"].mean()
    won = columns["adversarial_decisions"] - columns["clean_decisions"].astype(np.int64)
    return replace(
        cell,
        n=n,
        classes=target.classes,
        floor=target.floor,
        ceiling=target.ceiling,
        reference=target.reference,
        clean_macs=float(columns["clean_macs"].mean()),
        adversarial_macs=float(columns["adversarial_macs"].mean()),
        float_macs=float(columns["float_macs"].mean()),
        flip_rate=float(flipped / held) if held > 0 and np.isfinite(flipped) else None,
        block_recovery=float(won.mean() / blocks) if blocks > 0 else None,
        psnr=float(columns["psnr"].mean()),
        pooled_psnr=_pooled(columns),
        unchanged=int((columns["squared"] == 0).sum()),
        ssim=float(columns["ssim"].mean()),
        l2=float(columns["l2"].mean()),
        linf=int(columns["linf"].max()),
        evaluations=float(columns["evaluations"].mean()),
        units=unit_rows(target.units),
    )


def _pooled(columns: Mapping[str, stats.Array]) -> float | None:
    """dB of the mean squared error; None where no image changed. The number of values follows from
    PSNR and sum of D^2.
    """
    changed = columns["squared"] > 0
    if not changed.any():
        return None
    values = columns["squared"][changed][0] * 10 ** (columns["psnr"][changed][0] / 10) / 255**2
    return float(10 * np.log10(255**2 * values / columns["squared"].mean()))
