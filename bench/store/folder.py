"""The run folder: keys, atomic shards, scan, seal, lock.

    runs/NAME/plan.json  log.txt  lock
    runs/NAME/cells/KEY/target.json                  the target, its audited floor and ceiling
    runs/NAME/cells/KEY/shard-00000-00063.parquet    one row an image, from first to last
    runs/NAME/cells/KEY/cell.json                    inputs, status, flags, totals, digests

Every write is whole or not there. Shards hold no time, host or path, so the same work gives the
same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import (
    DiskError,
    InUse,
    RunFolderError,
    did_you_mean,
)
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical
from bench.files.locks import try_lock, wait_lock

SCHEMA = 1
"""Version of everything written to a run folder; a newer one is refused."""
LATENCY = "latency.json"
"""What `gatebench latency` measured of a run, in its folder."""

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_POINT = pa.struct([("evaluations", pa.int64()), ("macs", pa.int64()), ("squared", pa.float64())])
ROWS = pa.schema(
    [
        ("id", pa.string()),
        ("label", pa.int64()),
        ("clean_prediction", pa.int64()),
        ("adversarial_prediction", pa.int64()),
        ("clean_macs", pa.int64()),
        ("adversarial_macs", pa.int64()),
        ("float_macs", pa.int64()),
        ("jpeg_macs", pa.int64()),
        ("clean_decisions", pa.binary()),
        ("adversarial_decisions", pa.binary()),
        ("linf", pa.int64()),
        ("squared", pa.int64()),
        ("l2", pa.float64()),
        ("psnr", pa.float64()),
        ("ssim", pa.float64()),
        ("evaluations", pa.int64()),
        ("forwards", pa.int64()),
        ("backwards", pa.int64()),
        ("held", pa.int64()),
        ("flipped", pa.int64()),
        ("near_threshold", pa.int64()),
        ("overshoot", pa.bool_()),
        ("trace", pa.list_(_POINT)),
        ("image", _PICTURE),
        ("adversarial", _PICTURE),
    ]
)
"""Columns of a shard; `bench.results.board.ImageRow` says what they mean.

Decisions are packed bits, first unit first.
"""

_SHARD_NAME = re.compile(r"shard-(\d{5,})-(\d{5,})\.parquet")


def write_json(path: Path, document: Any) -> None:
    """Write a document, readable and reproducible."""
    write_atomic(
        path,
        json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False).encode()
        + b"\n",
    )


def read_json(path: Path) -> dict[str, Any]:
    """Read a document of a run folder.

    Raises:
        RunFolderError: it is not there, damaged, or of a newer schema.
    """
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is not there", hint="a run folder holds plan.json and cells/; is this one?"
        ) from error
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} is no document of gatebench")
    if document.get("schema", SCHEMA) > SCHEMA:
        raise RunFolderError(
            f"{path} has schema {document['schema']}, this gatebench reads up to {SCHEMA}",
            hint="upgrade gatebench to read this run",
        )
    return document


@dataclass(frozen=True)
class Shard:
    """A finished shard.

    The places of its first and last image in the cell, its file, and what made it.
    """

    first: int
    last: int
    path: Path
    record: Mapping[str, Any]


class CellFolder:
    """One cell of a run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key(self) -> str:
        return self.path.name

    def sealed(self) -> dict[str, Any] | None:
        """The content of cell.json, or None while the cell is unfinished."""
        path = self.path / "cell.json"
        return read_json(path) if path.is_file() else None

    def shards(self) -> list[Shard]:
        """Finished shards in the order of their images; damaged or foreign files do not count."""
        found = []
        for path in sorted(self.path.glob("shard-*.parquet")):
            match = _SHARD_NAME.fullmatch(path.name)
            record = _record(path) if match else None
            if match and record is not None and record.get("key") == self.key:
                found.append(Shard(int(match[1]), int(match[2]), path, record))
        chosen: list[Shard] = []
        for shard in sorted(found, key=lambda shard: (shard.first, -shard.last)):
            if not chosen or shard.first > chosen[-1].last:
                chosen.append(shard)
        return chosen

    def missing(self, images: int, size: int, batch: int) -> list[tuple[int, int]]:
        """(first, last) of the shards still to be computed.

        Whole batches, at most `size` images each.
        """
        done = [(shard.first, shard.last) for shard in self.shards()]
        step = max(size // batch, 1)
        todo: list[tuple[int, int]] = []
        run: list[int] = []
        starts = range(0, images, batch)
        for start in starts:
            covered = any(
                first <= start and min(start + batch, images) - 1 <= last for first, last in done
            )
            if not covered:
                run.append(start)
            if run and (covered or len(run) == step or start == starts[-1]):
                todo.append((run[0], min(run[-1] + batch, images) - 1))
                run = []
        return todo

    def write_shard(
        self, first: int, last: int, rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
    ) -> Path:
        """Write one shard; `record` says what made it and joins the file's metadata."""
        document = {**record, "key": self.key, "schema": SCHEMA}
        table = pa.Table.from_pylist(
            list(rows), schema=ROWS.with_metadata({"gatebench": canonical(document).decode()})
        )
        buffer = io.BytesIO()
        pq.write_table(
            table,
            buffer,
            compression="zstd",
            compression_level=3,
            row_group_size=1024,
            write_statistics=False,
        )
        path = self.path / f"shard-{first:05d}-{last:05d}.parquet"
        write_atomic(path, buffer.getvalue())
        return path

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of the finished shards, in order; a column that an older gatebench did not write is null."""
        wanted = list(columns) if columns else ROWS.names
        parts = [_columns(shard.path, wanted) for shard in self.shards()]
        return pa.concat_tables(parts) if parts else ROWS.empty_table()

    def sealed_table(
        self, digests: Mapping[str, str], columns: Sequence[str]
    ) -> tuple[pa.Table, list[str]]:
        """The rows of the sealed shards and what `altered` says, each file read once.

        Args:
            digests: file name -> sha256 of each sealed shard.
            columns: to read; one that an older gatebench did not write is null.

        Returns:
            (rows in order, names of the files that are not what was sealed). Without rows where
            there is such a file.
        """
        wrong, parts = [], []
        for name in sorted(digests, key=_place):
            try:
                data = (self.path / name).read_bytes()
            except OSError:
                data = b""
            if hashlib.sha256(data).hexdigest() != digests[name]:
                wrong.append(name)
            elif not wrong:
                parts.append(_columns(pa.BufferReader(data), columns))
        others = [path for path in self.path.glob("shard-*.parquet") if path.name not in digests]
        if others:
            wrong += [shard.path.name for shard in self.shards() if shard.path.name not in digests]
        return (pa.concat_tables(parts) if parts and not wrong else ROWS.empty_table()), wrong

    @contextlib.contextmanager
    def exclusive(self, name: str) -> Iterator[None]:
        """Hold a lock of this cell; others wait."""
        with open(self.path / name, "a+") as file:
            wait_lock(file)
            yield

    def sweep(self) -> None:
        """Remove what a killed process left half-written; only for who holds the run's lock."""
        for path in self.path.glob(".*.part"):
            path.unlink(missing_ok=True)

    def intact(self, digests: Mapping[str, str]) -> bool:
        """Whether the sealed shards are there, byte for byte.

        Those that were altered are removed, to be computed again.
        """
        wrong = self.altered(digests)
        for name in wrong:
            (self.path / name).unlink(missing_ok=True)
        return not wrong

    def altered(self, digests: Mapping[str, str]) -> list[str]:
        """The shards that are missing, altered since they were sealed, or never sealed."""
        paths = {name: self.path / name for name in digests}
        wrong = [
            name
            for name, path in paths.items()
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digests[name]
        ]
        return wrong + [
            shard.path.name for shard in self.shards() if shard.path.name not in digests
        ]

    def clear(self) -> None:
        """Remove everything of this cell."""
        if self.path.is_dir():
            for path in self.path.iterdir():
                path.unlink()


def _place(name: str) -> int:
    """Where a shard begins, by its name."""
    match = _SHARD_NAME.fullmatch(name)
    return int(match[1]) if match else -1


def _columns(source: Path | pa.BufferReader, wanted: Sequence[str]) -> pa.Table:
    """These columns of a shard; those that it lacks are null."""
    file = pq.ParquetFile(source)
    there = file.schema_arrow.names
    part = file.read([name for name in wanted if name in there], use_threads=False)
    part = part.replace_schema_metadata(None)
    for place, name in enumerate(wanted):
        if name not in there:
            nulls = pa.nulls(part.num_rows, ROWS.field(name).type)
            part = part.add_column(place, ROWS.field(name), nulls)
    return part.select(list(wanted))


def _record(path: Path) -> dict[str, Any] | None:
    """What made a shard, from its metadata; None for a file that is no whole shard."""
    try:
        metadata = pq.read_schema(path).metadata or {}
        record = json.loads(metadata[b"gatebench"])
    except (OSError, KeyError, ValueError, pa.ArrowException):
        return None
    return record if isinstance(record, dict) and record.get("schema", 0) <= SCHEMA else None


class RunFolder:
    """One run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return self.path.name

    def create(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            DiskError: it cannot be made.
        """
        try:
            (self.path / "cells").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DiskError(
                f"cannot make {self.path}: {error.strerror}",
                hint="choose another folder with --out",
            ) from error

    def cell(self, key: str, *, create: bool = False) -> CellFolder:
        """The folder of a cell."""
        path = self.path / "cells" / key
        if create:
            try:
                path.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise DiskError(f"cannot make {path}: {error.strerror}") from error
        return CellFolder(path)

    def plan(self) -> dict[str, Any]:
        """The resolved plan of this run.

        Raises:
            RunFolderError: it is not there, or is none.
        """
        document = read_json(self.path / "plan.json")
        if not document.get("boards") or "digest" not in document:
            raise RunFolderError(
                f"{self.path / 'plan.json'} is no plan of a run",
                hint="choose another folder with --name",
            )
        return document

    def latency(self) -> dict[str, Any]:
        """What `gatebench latency` wrote, {} where it was not run."""
        path = self.path / LATENCY
        return read_json(path) if path.is_file() else {}

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; released when it ends, however it ends.

        Raises:
            RunFolderError: another process holds it, named by its process id.
        """
        path = self.path / "lock"
        try:
            file = open(path, "a+")  # noqa: SIM115 — held open as long as the lock
        except OSError as error:
            raise DiskError(f"cannot open {path}: {error.strerror}") from error
        with file:
            if not try_lock(file):
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise InUse(
                    f"{self.path} is in use by another gatebench (process {owner})",
                    hint="wait for it, end it, or choose another folder with --name",
                )
            file.seek(0)
            file.truncate()
            file.write(str(os.getpid()))
            file.flush()
            yield


def same_record(shards: Sequence[Shard], record: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where existing shards were made otherwise than `record` says, as far as it says.

    Name -> (then, now).
    """
    differences = {}
    for shard in shards:
        for name in sorted(record):
            then, now = shard.record.get(name), record.get(name)
            if then != now:
                differences[name] = (then, now)
    return differences


def find_run(name: str, root: Path = Path("runs")) -> Path:
    """The folder of a run, given as a path or as the name of a folder in runs/.

    Raises:
        RunFolderError: there is none; names the nearest.
    """
    for path in (Path(name), root / name):
        if (path / "plan.json").is_file():
            return path
    known = sorted(path.parent.name for path in root.glob("*/plan.json")) if root.is_dir() else []
    raise RunFolderError(
        f"there is no run {name!r}{did_you_mean(name, known)}", hint="'gatebench run' makes one"
    )
