"""What `gatebench transfer` wrote: executed MACs of one target's saved images on another. No torch here.

transfer.parquet in the run's folder holds one row an image and pair of targets, and in its metadata what the source cells were then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.files.canonical import canonical
from bench.plans.plan import defended_name
from bench.store.folder import CellFolder, RunFolder

FILE = "transfer.parquet"
SCHEMA = pa.schema(
    [
        ("board", pa.int64()),
        ("source", pa.string()),
        ("attack", pa.string()),
        ("victim", pa.string()),
        ("id", pa.string()),
        ("macs", pa.int64()),
    ]
)

Entry = Mapping[str, Any]


def target_label(entry: Entry) -> str:
    """A target with its defence, in one string."""
    defense = entry["defense"]["label"] if entry["defense"] else ""
    return defended_name(entry["target"]["label"], defense)


def sealed_digest(folder: CellFolder) -> str:
    """One digest over the sealed shards of a cell; "" for a cell that is not sealed."""
    sealed = folder.sealed()
    return (
        hashlib.sha256(canonical(sealed["shards"])).hexdigest()
        if sealed and sealed["status"] == "ok"
        else ""
    )


def read_transfer(folder: RunFolder, number: int) -> list[dict[str, Any]]:
    """Source, attack, victim, and (n,) MACs with their image ids, of the pairs of a board; cells made anew since are left out."""
    path = folder.path / FILE
    if not path.is_file():
        return []
    table = pq.read_table(path)
    known = json.loads((table.schema.metadata or {}).get(b"gatebench", b"{}")).get("sources", {})
    fresh = {
        (target_label(entry), entry["attack"]["label"])
        for entry in folder.plan()["boards"][number]["cells"]
        if known.get(entry["key"])
        and known[entry["key"]] == sealed_digest(folder.cell(entry["key"]))
    }
    pairs: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in table.to_pylist():
        if row["board"] == number and (row["source"], row["attack"]) in fresh:
            pairs.setdefault((row["source"], row["attack"], row["victim"]), {})[row["id"]] = row[
                "macs"
            ]
    return [
        {
            "source": source,
            "attack": attack,
            "victim": victim,
            "ids": tuple(macs),
            "macs": np.array(list(macs.values()), dtype=np.float64),
        }
        for (source, attack, victim), macs in pairs.items()
    ]
