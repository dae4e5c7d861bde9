"""What `gatebench transfer` wrote: executed MACs of one target's saved images on another. No torch
here.

transfer.parquet in the run's folder holds one row an image and pair of targets, and in its metadata
what the source cells were then.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import RunFolderError
from bench.files.canonical import canonical
from bench.plans.stored import StoredBoard
from bench.results.stats import Array
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


@dataclass(frozen=True)
class TransferredMacs:
    """What one target executes on the saved images of another.

    Attributes:
        source: whose images, with its defense.
        attack: that made them.
        victim: who evaluated them, with its defense.
        ids: of the images.
        macs: (n,) executed MACs.
    """

    source: str
    attack: str
    victim: str
    ids: tuple[str, ...]
    macs: Array


def sealed_digest(folder: CellFolder) -> str:
    """One digest over the sealed shards of a cell; "" for a cell that is not sealed."""
    sealed = folder.sealed()
    if sealed is None or sealed.status != "ok":
        return ""
    return hashlib.sha256(canonical(sealed.shards)).hexdigest()


def read_transfer(folder: RunFolder, number: int, board: StoredBoard) -> list[TransferredMacs]:
    """The pairs of a board; those of cells that were computed again since are left out.

    Args:
        folder: of the run.
        number: of the board.
        board: as in the plan.

    Raises:
        RunFolderError: transfer.parquet is damaged.
    """
    path = folder.path / FILE
    if not path.is_file():
        return []
    try:
        table = pq.read_table(path, schema=SCHEMA)
        metadata = pq.read_schema(path).metadata or {}
        known = json.loads(metadata.get(b"gatebench", b"{}")).get("sources", {})
        if any(column.null_count for column in table.columns):
            raise ValueError("values are missing")
        now = {key: known.get(key) for key in board.cells}
    except (OSError, ValueError, AttributeError, RecursionError, pa.ArrowException) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    fresh = {
        (cell.defended, cell.attack.label)
        for key, cell in board.cells.items()
        if now[key] and now[key] == readable_digest(folder.cell(key))
    }
    pairs: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in table.to_pylist():
        if row["board"] == number and (row["source"], row["attack"]) in fresh:
            who = (row["source"], row["attack"], row["victim"])
            pairs.setdefault(who, {})[row["id"]] = row["macs"]
    return [
        TransferredMacs(*who, tuple(macs), np.array(list(macs.values()), dtype=np.float64))
        for who, macs in pairs.items()
    ]


def readable_digest(folder: CellFolder) -> str | None:
    """`sealed_digest`, or None where the cell's record cannot be read."""
    try:
        return sealed_digest(folder)
    except RunFolderError:
        return None
