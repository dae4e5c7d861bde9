"""The run folder: its cells, what is finished of them, and its lock.

    runs/NAME/plan.json  log.txt  lock
    runs/NAME/cells/KEY/target.json                what the target says of itself (store.target)
    runs/NAME/cells/KEY/shard-00000-00031.parquet  one row an image (store.schema, store.shards)
    runs/NAME/cells/KEY/fit.json, fit.safetensors  what an attack learned first
    runs/NAME/cells/KEY/cell.json                  how the cell ended (store.sealed)

A shard is named by the places of its first and its last image. Every write is whole or not there.
Shards hold no time, host or path, so the same work gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from bench.errors import InUse, RunFolderError, did_you_mean
from bench.files.atomic import write_atomic
from bench.files.locks import claimed, waited
from bench.files.regular import read_regular
from bench.files.remove import remove
from bench.files.settings import settings
from bench.files.writing import COPY, ELSEWHERE, make_folder
from bench.store.documents import read_document
from bench.store.latency import LATENCY, Latency
from bench.store.others import check_no_others
from bench.store.schema import ROWS
from bench.store.sealed import FitNote, Sealed, read_fit, read_sealed
from bench.store.shards import Shard, shard_bytes, shard_name, shard_rows, shard_span, shards_in
from bench.store.submission import WITHDRAWN, read_withdrawal
from bench.store.target import TARGET, TargetDescription, read_target

PLAN = "plan.json"
"""The resolved plan of a run; `bench.plans.stored` reads it."""
_FRESH = "--fresh removes it and computes everything again"


class CellFolder:
    """One cell of a run on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def key(self) -> str:
        return self.path.name

    def sealed(self) -> Sealed | None:
        """How the cell ended; None while it is unfinished.

        Raises:
            RunFolderError: cell.json is damaged.
        """
        return read_sealed(self.path)

    @property
    def is_described(self) -> bool:
        """Whether there is a description of its target."""
        return (self.path / TARGET).is_file()

    def target(self) -> TargetDescription:
        """What its target says of itself.

        Raises:
            RunFolderError: target.json is not there, or damaged.
        """
        return read_target(self.path)

    def fit(self) -> FitNote | None:
        """What its attack learned first; None for nothing."""
        return read_fit(self.path)

    def shards(self) -> list[Shard]:
        """Finished shards in the order of their images; damaged or foreign files do not count."""
        return shards_in(self.path, self.key)

    def missing(self, images: int, size: int, batch: int) -> list[tuple[int, int]]:
        """The shards still to be computed.

        Args:
            images: of the cell.
            size: images of a shard at most, but for a whole batch.
            batch: images of a batch; a shard is a whole number of them.

        Returns:
            (first, last) of each.
        """
        done = sorted((shard.first, shard.last) for shard in self.shards())
        step = max(size // batch, 1)
        todo: list[tuple[int, int]] = []
        run: list[int] = []
        starts = range(0, images, batch)
        place = 0
        for start in starts:
            while place < len(done) and done[place][1] < start:
                place += 1
            last = min(start + batch, images) - 1
            covered = place < len(done) and done[place][0] <= start and last <= done[place][1]
            if not covered:
                run.append(start)
            if run and (covered or len(run) == step or start == starts[-1]):
                todo.append((run[0], min(run[-1] + batch, images) - 1))
                run = []
        return todo

    def write_shard(
        self, first: int, last: int, rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]
    ) -> Path:
        """Write one shard.

        Args:
            first: place of its first image in the cell.
            last: place of its last image.
            rows: one an image, with the columns of `bench.store.schema`.
            record: what made it; joins the file's metadata.

        Raises:
            ValueError: a row lacks a column, or has one that there is not.
        """
        path = self.path / shard_name(first, last)
        write_atomic(path, shard_bytes(rows, {**record, "key": self.key}))
        return path

    def table(
        self, columns: Sequence[str] | None = None, *, size: tuple[int, int] | None = None
    ) -> pa.Table:
        """All rows of the finished shards, in order.

        Args:
            columns: which; all by default. One that an older gatebench did not write is null.
            size: (width, height) that pictures must have; None is any.

        Raises:
            RunFolderError: a shard lacks a column, has one of another type or a picture of another
                size, or would take more memory than it may.
        """
        wanted = ROWS if columns is None else pa.schema([ROWS.field(name) for name in columns])
        parts = [shard_rows(shard.path, wanted, size=size) for shard in self.shards()]
        return pa.concat_tables(parts) if parts else wanted.empty_table()

    def shard_table(self, shard: Shard, *, size: tuple[int, int] | None = None) -> pa.Table:
        """All rows of one shard, with every column, and pictures of this size."""
        return shard_rows(shard.path, ROWS, size=size)

    def shard_column(self, shard: Shard, name: str) -> list[Any]:
        """One column of one shard."""
        values: list[Any] = shard_rows(shard.path, pa.schema([ROWS.field(name)]))[name].to_pylist()
        return values

    def sealed_table(
        self,
        digests: Mapping[str, str],
        columns: Sequence[str],
        *,
        whole: bool = False,
        size: tuple[int, int] | None = None,
    ) -> tuple[pa.Table, list[str]]:
        """The rows of the sealed shards and what `altered` says, each file read once.

        Args:
            digests: file name -> sha256 of each sealed shard.
            columns: to read; one that an older gatebench did not write is null.
            whole: whether the other columns are decoded and checked too.
            size: (width, height) that pictures must have, where they are decoded; None is any.

        Returns:
            (rows in order, names of the files that are not what was sealed). Without rows where
            there is such a file.

        Raises:
            RunFolderError: a shard lacks a column, or has one of another type or a picture of
                another size.
        """
        wanted = pa.schema([ROWS.field(name) for name in columns])
        wrong, parts = [], []
        for name in sorted(digests, key=_place):
            try:
                data = read_regular(self.path / name)
            except OSError:
                data = b""
            if hashlib.sha256(data).hexdigest() != digests[name]:
                wrong.append(name)
            elif not wrong:
                parts.append(shard_rows(self.path / name, wanted, data, whole=whole, size=size))
        others = [path for path in self.path.glob("shard-*.parquet") if path.name not in digests]
        if others:
            wrong += [shard.path.name for shard in self.shards() if shard.path.name not in digests]
        return (pa.concat_tables(parts) if parts and not wrong else wanted.empty_table()), wrong

    def exclusive(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lock of this cell; others wait.

        Raises:
            DiskError: it cannot be opened, or is no file.
        """
        path = self.path / name
        if path.is_symlink():
            remove(path)
        return waited(path, f"{_FRESH}, or {ELSEWHERE}")

    def sweep(self) -> None:
        """Remove what a killed process left half-written; only for who holds the run's lock."""
        for path in self.path.glob(".*.part"):
            path.unlink(missing_ok=True)

    def altered(self, digests: Mapping[str, str]) -> list[str]:
        """The shards that are not what was sealed.

        Args:
            digests: file name -> sha256 of the sealed shards.

        Returns:
            Names of those that are missing or other bytes, and of those that would be read though
            they were not sealed.
        """
        wrong = [name for name, digest in digests.items() if _digest(self.path / name) != digest]
        return wrong + [
            shard.path.name for shard in self.shards() if shard.path.name not in digests
        ]

    def remove(self, names: Iterable[str]) -> None:
        """Remove some of its files."""
        for name in names:
            remove(self.path / name)

    def clear(self) -> None:
        """Remove everything of this cell but a note that it was withdrawn, which holds of the same
        work done again; what a link points to stays."""
        if self.path.is_symlink() or not self.path.is_dir():
            remove(self.path)
            return
        for path in self.path.iterdir():
            if path.name != WITHDRAWN or not self._is_withdrawn:
                remove(path)

    @property
    def _is_withdrawn(self) -> bool:
        """Whether there is a note of a withdrawal that can be read."""
        try:
            link = (self.path / WITHDRAWN).is_symlink()
            return not link and read_withdrawal(self.path) is not None
        except RunFolderError:
            return False


def _digest(path: Path) -> str:
    """sha256 of a file; "" for one that cannot be read."""
    try:
        return hashlib.sha256(read_regular(path)).hexdigest()
    except OSError:
        return ""


def _place(name: str) -> int:
    """Where a shard begins, by its name."""
    span = shard_span(name)
    return span[0] if span else -1


_FILES = (PLAN, LATENCY, "lock", "log.txt", "board.parquet", "board.csv", "transfer.parquet")
"""The files of a run's folder, beside its cells."""


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
            RunFolderError: it holds something else than a run.
            DiskError: it cannot be made.
        """
        self.check_no_others()
        make_folder(self.path / "cells")

    def check_no_others(self) -> None:
        """Refuse a folder that somebody else filled; see `bench.store.others`."""
        check_no_others(self.path, PLAN, _FILES)

    def heal(self) -> None:
        """Remove what lies where the run's files and folders belong and is none of their kind.

        Links inside the folder are removed, never followed. The folder itself may be reached
        through one.
        """
        if os.path.lexists(self.path) and not self.path.is_dir():
            remove(self.path)
        for name in _FILES:
            path = self.path / name
            if path.is_symlink() or not path.is_file():
                remove(path)
        cells = self.path / "cells"
        if cells.is_symlink() or not cells.is_dir():
            remove(cells)
            return
        for path in cells.iterdir():
            if path.is_symlink() or not path.is_dir():
                remove(path)

    def cell(self, key: str, *, create: bool = False) -> CellFolder:
        """The folder of a cell."""
        path = self.path / "cells" / key
        if create:
            make_folder(path)
        return CellFolder(path)

    @property
    def is_planned(self) -> bool:
        """Whether there is a plan.json, whatever it holds."""
        return (self.path / PLAN).is_file()

    def latency(self) -> Latency | None:
        """What `gatebench latency` measured, None where it was not run.

        Raises:
            RunFolderError: latency.json is damaged.
        """
        path = self.path / LATENCY
        if not path.is_file():
            return None
        found = read_document(path, Latency, called="record of times")
        if len({(one.target, one.defense) for one in found.entries}) != len(found.entries):
            raise RunFolderError(f"{path} is no record of times: a target is there twice")
        return found

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; released when it ends, however it ends.

        Raises:
            RunFolderError: another process holds it, named by its process id.
        """
        for name in ("log.txt", "lock"):  # both are written to where they lie
            path = self.path / name
            if path.is_symlink() or (os.path.lexists(path) and not path.is_file()):
                raise RunFolderError(f"{path} is no plain file", hint=_FRESH)

        def taken(owner: str) -> InUse:
            return InUse(
                f"{self.path} is in use by another gatebench (process {owner})",
                hint="wait for it, end it, or choose another folder with --name",
            )

        with claimed(path, taken, f"{ELSEWHERE}, or {COPY}"):
            yield


def same_record(shards: Sequence[Shard], record: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Where existing shards were made otherwise than `record` says, as far as it says: name ->
    (then, now)."""
    differences = {}
    for shard in shards:
        for name in sorted(record):
            then, now = shard.record.get(name), record.get(name)
            if then != now:
                differences[name] = (then, now)
    return differences


def find_run(name: str, root: Path | None = None) -> Path:
    """The folder of a run.

    Args:
        name: a path, or the name of a folder in `root`.
        root: the folder of all runs; the user's own unless given (`bench.files.settings`).

    Raises:
        RunFolderError: there is none, and names the nearest; or it must not be read.
    """
    root = settings().out if root is None else root
    for path in (Path(name), root / name):
        try:
            if (path / PLAN).is_file():
                return path
        except PermissionError as error:
            raise RunFolderError(f"{path} cannot be read: {error.strerror}") from error
        except (OSError, ValueError):
            continue  # no path at all, such as a name too long
    known = sorted(path.parent.name for path in root.glob("*/plan.json")) if root.is_dir() else []
    raise RunFolderError(
        f"there is no run {name!r}{did_you_mean(name, known)}", hint="'gatebench run' makes one"
    )
