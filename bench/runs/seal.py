"""Closing a cell: status, flags, aggregates and digests into cell.json."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pyarrow as pa
import pyarrow.compute as pc

from bench.contracts.cell import Cell
from bench.files.regular import read_regular
from bench.results import flags as reliability
from bench.store.documents import write_json
from bench.store.folder import CellFolder
from bench.store.measured import check_measured
from bench.store.schema import names
from bench.store.sealed import CELL, Combination, Environment, Sealed, Status
from bench.store.shards import Shard


def seal(
    folder: CellFolder,
    cell: Cell,
    status: Status,
    reason: str = "",
    detail: str = "",
    *,
    ids: Sequence[str] | None = None,
    flags: Sequence[str] = (),
    combination: Combination | None = None,
) -> Sealed:
    """Write cell.json.

    Args:
        folder: of the cell; with status "ok" all its shards are there.
        cell: the resolved cell.
        status: what became of it.
        reason: of a status other than "ok".
        detail: of a status other than "ok": a traceback.
        ids: of the images that the rows must be about, in order, where they are known.
        flags: beside those found here.
        combination: which cells it is made of (`bench.runs.ensemble`).

    Returns:
        What was written.

    Raises:
        ValueError: with status "ok", where the rows are not those of the protocol's images, or
            its budget, its threat or the target do not allow them.
    """
    shards = folder.shards()
    same = all(shard.record == shards[0].record for shard in shards)
    mixed = () if same else ("mixed-environment",)
    found = Sealed(
        key=folder.key,
        inputs=cell.inputs(),
        status=status,
        reason=reason,
        detail=detail,
        flags=mixed,
        aggregates={},
        environment=environment_of(shards[0]) if shards else {},
        shards={},
        combination=combination,
    )
    if status == "ok":
        table = folder.table([*names(plain=True), "trace"])
        target = folder.target() if folder.is_described else None
        check_measured(table.select(names(plain=True)), cell, target, combination)
        if ids is not None and table["id"].to_pylist() != list(ids):
            raise ValueError("its rows are about other images than its protocol")
        found = replace(
            found,
            flags=(*flags_of(folder, cell, table), *flags, *mixed),
            aggregates=aggregates(table),
            shards={
                shard.path.name: hashlib.sha256(read_regular(shard.path)).hexdigest()
                for shard in shards
            },
            fit=folder.fit(),
        )
    write_json(folder.path / CELL, found.document())
    return found


def check_learned_alike(folder: CellFolder) -> None:
    """Refuse shards behind defenses that learned otherwise: they are of several networks.

    Raises:
        ValueError: there are some.
    """
    if len({shard.record.get("learnt", "") for shard in folder.shards()}) > 1:
        raise ValueError(
            "its defense learned otherwise in another process; let fit return the same from the "
            "same network and images"
        )


def environment_of(shard: Shard) -> Environment:
    """What made a shard, without what tells it from others."""
    kept = {name: value for name, value in shard.record.items() if name not in ("key", "schema")}
    return cast(Environment, kept)


def aggregates(table: pa.Table) -> dict[str, int]:
    """Sums over all images: exact, and enough to check a board against."""
    sums = {
        name: int(pc.sum(table[name].cast("int64")).as_py() or 0) for name in names(summed=True)
    }
    return {"images": table.num_rows, **sums}


def flags_of(folder: CellFolder, cell: Cell, table: pa.Table) -> list[str]:
    """What to know before believing the numbers; `bench.results.flags` says what they mean.

    Args:
        folder: of the cell.
        cell: the resolved cell.
        table: its rows, with their traces.
    """
    found = []
    if pc.any(table["overshoot"]).as_py():
        found.append("left-threat")
    if pc.any(pc.greater(table["near_threshold"], 0)).as_py():
        found.append("near-threshold")
    if not cell.is_combined and any("start" in shard.record for shard in folder.shards()):
        found.append("continued")
    if not folder.is_described:
        return found
    target = folder.target()
    found += reliability.of_target(target)
    if not cell.is_combined and pc.any(pc.greater(table["backwards"], 0)).as_py():
        traces, clean, spent, macs = (
            table[name].to_pylist()
            for name in ("trace", "clean_macs", "evaluations", "adversarial_macs")
        )
        if reliability.is_still_rising(traces, clean, spent, target.reference):
            found.append("not-converged")
        attack, budget = cell.attack, cell.protocol.budget
        aware = not attack.control and attack.params.get("knows") != "network"
        if aware and reliability.is_stuck(macs, clean, target.yardstick, target.reference, budget):
            found.append("stuck")
    return found
