"""Shards: parquet files with one row an image, written whole and read within bounds.

A run folder may come from somebody else. A few bytes of parquet can stand for any number of rows
and any length of a picture, so rows are counted, and what columns claim is held against the size of
the file, before anything is decoded; what is decoded is added up as it comes.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.errors import RunFolderError
from bench.files.canonical import canonical
from bench.files.regular import LARGEST, read_regular
from bench.store.documents import SCHEMA, parse
from bench.store.pictures import check_pictures
from bench.store.schema import COLUMNS, ROWS, check_nested, check_rows
from bench.store.sealed import SHARD_NAME

BYTES_A_ROW = 2**14
"""Bytes of a row that any file may hold, decoded: 64,000 units, and all but its pictures."""
EXPANSION = 32
"""How many times larger than its file a shard may be, beside that."""
LEAST_BYTES = 16
"""Bytes of a file for each of its rows, at least: ids differ, and so do pictures."""
POINTS_A_ROW = 4096
"""Points of a trace that are read; older runs hold more than are written now."""
_AT_A_TIME = 2**27
"""Bytes that are decoded at a time, at most, by the largest value that a column can hold."""

_ROWS_AT_A_TIME = 2**14

_OPTIONAL = {column.name for column in COLUMNS if column.optional}


@dataclass(frozen=True)
class Shard:
    """A finished shard: the places of its first and last image in the cell, its file, and what made
    it."""

    first: int
    last: int
    path: Path
    record: Mapping[str, Any]


def shard_name(first: int, last: int) -> str:
    """The file of the shard with these images."""
    return f"shard-{first:05d}-{last:05d}.parquet"


def shard_span(name: str) -> tuple[int, int] | None:
    """(first, last) image of a shard by its file's name; None for another name."""
    match = SHARD_NAME.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def shards_in(folder: Path, key: str) -> list[Shard]:
    """Finished shards of a cell in the order of their images; no image is in two of them.

    Damaged and foreign files do not count.

    Args:
        folder: of the cell.
        key: of the cell.
    """
    found = []
    for path in sorted(folder.glob("shard-*.parquet")):
        span = shard_span(path.name)
        if span is None:
            continue
        record = _record(path, span[1] - span[0] + 1)
        if record is not None and record.get("key") == key:
            found.append(Shard(*span, path, record))
    chosen: list[Shard] = []
    for shard in sorted(found, key=lambda shard: (shard.first, -shard.last)):
        if not chosen or shard.first > chosen[-1].last:
            chosen.append(shard)
    return chosen


def shard_bytes(rows: Sequence[Mapping[str, Any]], record: Mapping[str, Any]) -> bytes:
    """The content of a shard.

    Args:
        rows: one an image, with the columns of `bench.store.schema`.
        record: what made it, and its cell's key; joins the file's metadata.

    Raises:
        ValueError: a row lacks a column, or has one that there is not.
    """
    check_rows(rows)
    document = {**record, "schema": SCHEMA}
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
    return buffer.getvalue()


def shard_rows(
    path: Path,
    wanted: pa.Schema,
    data: bytes | None = None,
    *,
    whole: bool = False,
    size: tuple[int, int] | None = None,
) -> pa.Table:
    """Columns of a shard; those that an older gatebench did not write are null.

    Args:
        path: of its file, whose name says how many rows it has.
        wanted: the columns.
        data: the file's content, where it was read already.
        whole: whether the other columns are decoded and checked too; nothing of them is kept.
        size: (width, height) that its pictures must have, where they are read; None is any.

    Raises:
        RunFolderError: it cannot be read, lacks a column or has one of another type, has another
            number of rows than its name says, a picture or a trace with holes, a picture of another
            size, or would take more memory than such a file may.
    """
    try:
        content = read_regular(path) if data is None else data
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            there = _columns_there(file, ROWS if whole else wanted, path)
            kept = [name for name in wanted.names if name in there]
            parts = []
            for batch in _within_bounds(file, list(there), len(content), path):
                check_nested(batch)
                if size is not None:
                    check_pictures(path, batch, size)
                parts.append(batch.select(kept))
        found = pa.schema([there[name] for name in kept])
        part = pa.Table.from_batches(parts, found) if parts else found.empty_table()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    for place, field in enumerate(wanted):
        if field.name not in there:
            part = part.add_column(place, field, pa.nulls(part.num_rows, field.type))
    return part


def _columns_there(file: pq.ParquetFile, wanted: pa.Schema, path: Path) -> dict[str, pa.Field]:
    """Those of the wanted columns that an open shard has, by name.

    Raises:
        RunFolderError: it lacks one that every shard has, or has one of another type.
    """
    there = {field.name: field for field in file.schema_arrow}
    found = {}
    for field in wanted:
        name = field.name
        here = there.get(name)
        if here is None and name in _OPTIONAL:
            continue
        if here is None or here.type != field.type:
            raise RunFolderError(f"{path} has no column {name!r} of {field.type}")
        found[name] = here
    return found


def _within_bounds(
    file: pq.ParquetFile, columns: Sequence[str], size: int, path: Path
) -> Iterator[pa.RecordBatch]:
    """Columns of an open shard, decoded part by part.

    Raises:
        RunFolderError: as in `shard_rows`.
    """
    rows, span = file.metadata.num_rows, shard_span(path.name)
    if span is None or rows != span[1] - span[0] + 1:
        raise RunFolderError(f"{path} holds {rows:,} rows, not those that its name says")
    if rows * LEAST_BYTES > size:
        raise RunFolderError(f"{path} has {size:,} bytes and claims to hold {rows:,} rows")
    most = rows * BYTES_A_ROW + EXPANSION * size
    claims = list(_claims(file, set(columns)))
    claimed = sum(claim for claim, _ in claims)
    if claimed > most or any(values > rows * POINTS_A_ROW for _, values in claims):
        raise RunFolderError(
            f"{path} has {size:,} bytes and claims to hold {claimed:,} in {rows:,} rows"
        )
    largest = max((claim for claim, _ in claims), default=1)
    at_a_time = min(max(_AT_A_TIME // max(largest, 1), 1), max(rows, 1))
    yield from _decoded(file, columns, at_a_time, most, path)


def bounded_rows(path: Path, columns: pa.Schema, most: int) -> tuple[pa.Table, dict[bytes, bytes]]:
    """Columns of another table of a run, and its metadata.

    Args:
        path: of a parquet file.
        columns: it must have, of these types.
        most: rows that it may have.

    Raises:
        RunFolderError: it cannot be read, has other columns, or more rows.
    """
    try:
        content = read_regular(path)
        with pq.ParquetFile(pa.BufferReader(content)) as file:
            there = {field.name: field.type for field in file.schema_arrow}
            if any(there.get(field.name) != field.type for field in columns):
                raise RunFolderError(f"{path} has other columns than {', '.join(columns.names)}")
            rows = file.metadata.num_rows
            if rows > most:
                raise RunFolderError(f"{path} holds {rows:,} rows, at most {most:,} are meant")
            limit = rows * BYTES_A_ROW + EXPANSION * len(content)
            if sum(claim for claim, _ in _claims(file, set(columns.names))) > limit:
                raise RunFolderError(f"{path} claims to hold more than {limit:,} bytes")
            parts = list(_decoded(file, columns.names, _ROWS_AT_A_TIME, limit, path))
            table = pa.Table.from_batches(parts, columns) if parts else columns.empty_table()
            return table, dict(file.schema_arrow.metadata or {})
    except (OSError, pa.ArrowException) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error


def _decoded(
    file: pq.ParquetFile, columns: Sequence[str], at_a_time: int, most: int, path: Path
) -> Iterator[pa.RecordBatch]:
    """Columns of an open file, decoded part by part.

    Raises:
        RunFolderError: they are more than `most` bytes.
    """
    total = 0
    for part in file.iter_batches(at_a_time, columns=list(columns), use_threads=False):
        total += part.nbytes
        if total > most:
            raise RunFolderError(f"{path} holds more than {most:,} bytes")
        yield part


def _claims(file: pq.ParquetFile, columns: Set[str]) -> Iterator[tuple[int, int]]:
    """(bytes, values) that a shard claims for each chunk of these columns."""
    for group in range(file.metadata.num_row_groups):
        chunks = file.metadata.row_group(group)
        for place in range(chunks.num_columns):
            chunk = chunks.column(place)
            if chunk.path_in_schema.partition(".")[0] in columns:
                yield chunk.total_uncompressed_size, chunk.num_values


def _record(path: Path, images: int) -> dict[str, Any] | None:
    """What made a shard of so many images, from its metadata; None for a file that is none."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
            return None
        with open(path, "rb") as file:  # pyarrow opens no path that is not UTF-8
            metadata = pq.read_metadata(file)
        record = parse((metadata.metadata or {})[b"gatebench"])
    except (OSError, KeyError, ValueError, RecursionError, pa.ArrowException):
        return None
    known = isinstance(record, dict) and type(record.get("schema")) is int
    return record if known and record["schema"] <= SCHEMA and metadata.num_rows == images else None
