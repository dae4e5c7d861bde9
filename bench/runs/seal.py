"""Closing a cell: status, flags, aggregates and digests into cell.json."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow.compute as pc

from bench.results import flags as reliability
from bench.store.folder import SCHEMA, CellFolder, read_json, write_json

_SUMMED = "clean_macs adversarial_macs float_macs jpeg_macs squared near_threshold overshoot forwards backwards held flipped".split()


def seal(
    folder: CellFolder,
    inputs: Mapping[str, Any],
    status: str,
    reason: str = "",
    detail: str = "",
    *,
    flags: Sequence[str] = (),
    combination: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Write cell.json.

    Args:
        folder: of the cell; with status "ok" all its shards are there.
        inputs: the resolved cell. status: one of `bench.results.records.STATUSES`. reason, detail: of a status other than "ok".
        flags: beside those found here. combination: which cells it is made of (`bench.runs.ensemble`).

    Returns:
        What was written.
    """
    shards = folder.shards()
    records = [
        {name: value for name, value in shard.record.items() if name not in ("key", "schema")}
        for shard in shards
    ]
    same = all(record == records[0] for record in records)
    sums = aggregates(folder) if status == "ok" else {}
    found: list[str] = []
    if status == "ok":
        found = [*_flags(folder, sums, combined=combination is not None), *flags]
    document = {
        "schema": SCHEMA,
        "key": folder.key,
        "inputs": dict(inputs),
        "status": status,
        "reason": reason,
        "detail": detail,
        "flags": found + ([] if same else ["mixed-environment"]),
        "aggregates": sums,
        "environment": records[0] if records else {},
        "shards": {
            shard.path.name: hashlib.sha256(shard.path.read_bytes()).hexdigest() for shard in shards
        }
        if status == "ok"
        else {},
    }
    if combination is not None:
        document["combination"] = dict(combination)
    note = folder.path / "fit.json"
    if status == "ok" and note.is_file():
        document["fit"] = {
            name: value for name, value in read_json(note).items() if name != "schema"
        }
    write_json(folder.path / "cell.json", document)
    return document


def aggregates(folder: CellFolder) -> dict[str, Any]:
    """Sums over all images: exact, and enough to check a board against."""
    table = folder.table(_SUMMED)
    sums = {
        name: int(pc.sum(table[name].cast("int64")).as_py() or 0) for name in table.column_names
    }
    return {"images": table.num_rows, **sums}


def _flags(folder: CellFolder, sums: Mapping[str, Any], *, combined: bool) -> list[str]:
    """What to know before believing the numbers; `bench.results.flags` says what the last three mean."""
    found = []
    if sums["overshoot"]:
        found.append("left-threat")
    if sums["near_threshold"]:
        found.append("near-threshold")
    description = (
        read_json(folder.path / "target.json") if (folder.path / "target.json").is_file() else {}
    )
    found += reliability.of_target(description)
    if not combined and "ceiling" in description and sums["backwards"]:
        table = folder.table(["trace", "clean_macs", "evaluations"])
        traces, clean, spent = (
            table[name].to_pylist() for name in ("trace", "clean_macs", "evaluations")
        )
        if reliability.still_rising(
            traces, clean, spent, int(description.get("reference", description["ceiling"]))
        ):
            found.append("not-converged")
    return found
