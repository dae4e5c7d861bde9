"""Closing a cell: status, flags, aggregates and digests into cell.json."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc

from bench.store import SCHEMA, CellFolder, write_json

STATUSES = ("ok", "skipped", "invalid", "failed", "timeout", "oom")


_SUMMED = "clean_macs adversarial_macs float_macs squared near_threshold overshoot forwards backwards".split()


def seal(folder: CellFolder, inputs: Mapping[str, Any], status: str, reason: str = "", detail: str = "") -> dict[str, Any]:
    """Write cell.json.

    Args:
        folder: of the cell; with status "ok" all its shards are there.
        inputs: the resolved cell. status: one of `STATUSES`. reason, detail: of a status other than "ok".

    Returns:
        What was written.
    """
    shards = folder.shards()
    records = [{name: value for name, value in shard.record.items() if name not in ("key", "schema")} for shard in shards]
    same = all(record == records[0] for record in records)
    aggregates = _aggregates(folder) if status == "ok" else {}
    flags = _flags(aggregates) if status == "ok" else []
    document = {
        "schema": SCHEMA,
        "key": folder.key,
        "inputs": dict(inputs),
        "status": status,
        "reason": reason,
        "detail": detail,
        "flags": flags + ([] if same else ["mixed-environment"]),
        "aggregates": aggregates,
        "environment": records[0] if records else {},
        "shards": {shard.path.name: hashlib.sha256(shard.path.read_bytes()).hexdigest() for shard in shards} if status == "ok" else {},
    }
    write_json(folder.path / "cell.json", document)
    return document


def _aggregates(folder: CellFolder) -> dict[str, Any]:
    """Sums over all images: exact, and enough to check a board against."""
    table = folder.table(
        ["clean_macs", "adversarial_macs", "float_macs", "squared", "near_threshold", "overshoot", "forwards", "backwards"]
    )
    sums = {name: int(pc.sum(table[name].cast("int64")).as_py() or 0) for name in table.column_names}
    return {"images": table.num_rows, **sums}


def _flags(aggregates: Mapping[str, Any]) -> list[str]:
    flags = []
    if aggregates["overshoot"]:
        flags.append("left-threat")
    if aggregates["near_threshold"]:
        flags.append("near-threshold")
    return flags
