"""What `gatebench transfer` wrote: executed MACs of one target's saved images on another. No torch
here.

transfer.parquet in the run's folder holds one row an image and pair of targets, and in its metadata
what the source cells were then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from bench.contracts.cell import Cell
from bench.errors import RunFolderError
from bench.files.canonical import canonical
from bench.plans.stored import StoredBoard
from bench.results.stats import Array
from bench.store.documents import parse, read_content
from bench.store.folder import CellFolder, RunFolder
from bench.store.schema import MOST
from bench.store.shards import bounded_rows
from bench.terminal import counted

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

MOST_ROWS = 10_000_000
"""Rows that are read: images times pairs of targets, of all boards."""


@dataclass(frozen=True)
class BoardPlace:
    """Where a cell stands on the boards of a run: what its rows are found by.

    Attributes:
        board: its number.
        defended: label of the target, with its defense.
        attack: label.
    """

    board: int
    defended: str
    attack: str


@dataclass(frozen=True)
class Made:
    """What transfer.parquet was made of, as its metadata say.

    Attributes:
        schema: of the file.
        sources: key -> digest of each cell whose images were scored.
        victims: key -> digest of one cell of each target that scored them; older files lack it.
        places: key -> where each of these cells stood then; older files lack it.
    """

    schema: int = 1
    sources: Mapping[str, str] = field(default_factory=dict)
    victims: Mapping[str, str] = field(default_factory=dict)
    places: Mapping[str, BoardPlace] = field(default_factory=dict)


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
    """The pairs of a board, whatever number and labels it had when they were scored; those whose
    source or victim was computed again since, or is another one under its label, are left out.

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
    table, metadata = bounded_rows(path, SCHEMA, MOST_ROWS)
    try:
        known = read_content(parse(metadata.get(b"gatebench", b"{}")), Made)
        if any(column.null_count for column in table.columns):
            raise ValueError("values are missing")
    except (ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error

    def same(key: str, digest: str) -> bool:
        return bool(digest) and digest == readable_digest(folder.cell(key))

    def then(key: str, cell: Cell) -> BoardPlace:
        return known.places.get(key) or BoardPlace(number, cell.defended, cell.attack.label)

    sources = {
        then(key, cell): (cell.defended, cell.attack.label)
        for key, cell in board.cells.items()
        if same(key, known.sources.get(key, ""))
    }
    victims = {
        (place.board, place.defended): cell.defended
        for key, cell in board.cells.items()
        if not known.victims or same(key, known.victims.get(key, ""))
        for place in [then(key, cell)]
    }
    pairs: dict[tuple[str, str, str], dict[str, int]] = {}
    for row in table.to_pylist():
        source = sources.get(BoardPlace(row["board"], row["source"], row["attack"]))
        victim = victims.get((row["board"], row["victim"]))
        if source is None or victim is None:
            continue
        who = (*source, victim)
        macs = pairs.setdefault(who, {})
        if row["id"] in macs:
            raise RunFolderError(f"{path} cannot be read: image {row['id']!r:.60} is there twice")
        if not 0 <= row["macs"] <= MOST:
            raise RunFolderError(f"{path} cannot be read: macs is {row['macs']} in one of its rows")
        macs[row["id"]] = row["macs"]
    whole = board.protocol.images
    if fewer := [macs for macs in pairs.values() if len(macs) != whole]:
        raise RunFolderError(
            f"{path} cannot be read: {counted(len(fewer[0]), 'image')} of {whole} in one of its "
            "pairs"
        )
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
