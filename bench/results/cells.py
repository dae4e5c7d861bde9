"""A sealed cell -> its statistics: one pass over its shards, no pictures read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import RunFolderError
from bench.plans.plan import entry_label
from bench.results import stats
from bench.results.records import BoardCell
from bench.results.resampling import Request, estimates
from bench.results.rows import Rows, UnitRow, read_units, unpacked
from bench.results.stats import Estimate
from bench.store.folder import SCHEMA, CellFolder, RunFolder, read_json

UNDEFINED_BELOW = 0.01
"""Recovery is undefined where the reserve, ceiling - clean, is under this share of the ceiling."""

_COLUMNS = (
    "id label clean_prediction adversarial_prediction clean_macs adversarial_macs float_macs "
    "jpeg_macs clean_decisions adversarial_decisions squared psnr ssim l2 linf evaluations held "
    "flipped"
).split()
_RANKED = ("id", "clean_macs", "adversarial_macs")
"""Columns that the board needs of every cell once its statistics are there."""


@dataclass(frozen=True)
class ReadCell:
    """A cell as it was read, before anything is resampled.

    Attributes:
        cell: with its plain numbers.
        scores: the columns that ranks are made of, None where the cell has no numbers.
        requests: what is to be resampled.
        agreed: estimates that need no resampling.
    """

    cell: BoardCell
    scores: Mapping[str, stats.Array] | None = None
    requests: tuple[Request, ...] = ()
    agreed: Mapping[str, Estimate] = field(default_factory=dict)


def read_cell(
    folder: RunFolder,
    command: str,
    protocol: Mapping[str, Any],
    entry: Mapping[str, Any],
) -> ReadCell:
    """A cell with everything but its estimates and its rank.

    Args:
        folder: of the run.
        command: that repeats the run.
        protocol: of the board.
        entry: of the cell, as it stands in the plan.

    Raises:
        RunFolderError: a part of the cell is missing or damaged.
    """
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
        command=f"{command} --only {shlex.quote(entry_label(entry))}",
    )
    if entry.get("excluded"):
        return ReadCell(replace(cell, status="skipped", reason=entry["excluded"]))
    if sealed is None:
        return ReadCell(cell)
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
        return ReadCell(cell)
    table, wrong = store.sealed_table(sealed["shards"], _COLUMNS)
    if wrong:
        reason = f"{wrong[0]} was changed after the cell was sealed; run the same plan again"
        return ReadCell(replace(cell, status="invalid", reason=reason))
    if not (store.path / "target.json").is_file():
        raise RunFolderError(
            f"{store.path / 'target.json'} is not there",
            hint="run the same plan again with --fresh",
        )
    columns = {name: table[name].to_numpy() for name in _COLUMNS if not name.endswith("decisions")}
    described, units = _described(store.path / "target.json")
    for name in ("clean_decisions", "adversarial_decisions"):
        columns[name] = unpacked(table[name], len(units)).sum(1)
    requests, shares = _requests(described, columns)
    cell = replace(_measured(cell, described, columns, units), rows=Rows(store, len(units)))
    return ReadCell(cell, {name: columns[name] for name in _RANKED}, requests, shares)


def description(folder: CellFolder) -> Mapping[str, Any] | None:
    """What a cell's target says of itself; None where it was not looked at."""
    path = folder.path / "target.json"
    return _described(path)[0] if path.is_file() else None


def _described(path: Path) -> tuple[Mapping[str, Any], tuple[UnitRow, ...]]:
    """A target.json and its units, parsed once for all cells that hold the same bytes."""
    try:
        return _parsed(path.read_bytes())
    except (OSError, ValueError, KeyError):
        found = read_json(path)  # says what is wrong with it
        return found, read_units(found["units"])


@lru_cache(maxsize=64)
def _parsed(data: bytes) -> tuple[Mapping[str, Any], tuple[UnitRow, ...]]:
    found = json.loads(data)
    if found.get("schema", SCHEMA) > SCHEMA:
        raise ValueError("of a newer schema")
    return found, read_units(found["units"])


def _sees(entry: Mapping[str, Any], sealed: Mapping[str, Any]) -> str:
    """What an attack knew; one that never took a gradient saw executed MACs at most."""
    if entry["attack"]["params"].get("knows") == "network":
        return "network"
    return (
        "gates"
        if sealed["aggregates"].get("backwards", 0) or entry["attack"]["control"]
        else "macs"
    )


def _requests(
    described: Mapping[str, Any], columns: Mapping[str, stats.Array]
) -> tuple[tuple[Request, ...], dict[str, Estimate]]:
    """What is to be resampled, and the shares that all images agree on, which are not."""
    floor, ceiling = int(described["floor"]), int(described["ceiling"])
    reference = int(described.get("reference", ceiling))
    clean, adversarial, unrounded, reloaded = (
        columns[name].astype(np.float64)
        for name in ("clean_macs", "adversarial_macs", "float_macs", "jpeg_macs")
    )
    reserve = reference - clean
    defined = reserve.mean() >= UNDEFINED_BELOW * reference
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
        ("clean_accuracy", columns["clean_prediction"] == columns["label"]),
        ("adversarial_accuracy", columns["adversarial_prediction"] == columns["label"]),
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
    cell: BoardCell,
    described: Mapping[str, Any],
    columns: Mapping[str, stats.Array],
    units: tuple[UnitRow, ...],
) -> BoardCell:
    """The cell with its plain numbers."""
    n = len(columns["label"])
    ceiling = int(described["ceiling"])
    held, flipped = (columns[name].astype(np.float64).sum() for name in ("held", "flipped"))
    blocks = len(units) - columns["clean_decisions"].mean()
    won = columns["adversarial_decisions"] - columns["clean_decisions"].astype(np.int64)
    return replace(
        cell,
        n=n,
        classes=tuple(described["classes"]),
        floor=int(described["floor"]),
        ceiling=ceiling,
        reference=int(described.get("reference", ceiling)),
        clean_macs=float(columns["clean_macs"].mean()),
        adversarial_macs=float(columns["adversarial_macs"].mean()),
        float_macs=float(columns["float_macs"].mean()),
        flip_rate=float(flipped / held) if held > 0 else None,
        block_recovery=float(won.mean() / blocks) if blocks > 0 else None,
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
