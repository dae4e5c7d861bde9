"""Shards from somebody else: rows and bytes are bounded before they are decoded."""

import hashlib
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import RunFolderError
from bench.store.folder import CellFolder
from bench.store.schema import COLUMNS, ROWS

KEY = "0" * 64


def rows(count, **other):
    """A table of `count` rows, each column one value."""
    point = {"evaluations": 1, "macs": 1, "squared": 0.0}
    known = {
        pa.int64(): 1,
        pa.float64(): 1.0,
        pa.string(): "a",
        pa.binary(): b"\0",
        pa.bool_(): False,
    }
    columns = {}
    for column in COLUMNS:
        value = known.get(column.type, {"bytes": b"x", "path": None})
        value = other.get(column.name, [point] if column.name == "trace" else value)
        columns[column.name] = pa.array([value], column.type).take(pa.array([0] * count))
    return pa.table(columns, schema=ROWS)


def hostile(folder, table, last):
    """Write a shard that says it is ours."""
    folder.mkdir(parents=True, exist_ok=True)
    record = {"key": folder.name, "schema": 1}
    path = folder / f"shard-00000-{last:05d}.parquet"
    bare = table.schema.remove_metadata()
    with pq.ParquetWriter(path, bare, compression="zstd", store_schema=False) as file:
        file.write_table(table)
        padding = random.Random(0).randbytes(20_000).hex()  # so that the file is not too small
        file.add_key_value_metadata({"gatebench": json.dumps(record), "padding": padding})
    return path


def test_a_shard_within_bounds_is_read(tmp_path):
    hostile(tmp_path / KEY, rows(64), 63)
    cell = CellFolder(tmp_path / KEY)
    assert cell.table().num_rows == 64
    assert cell.table(["id"]).column_names == ["id"]


def repeated(count, name, value):
    """A table in which one column holds one value, stored once for all rows."""
    place = ROWS.get_field_index(name)
    column = pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([value]))
    return rows(count).set_column(place, name, column)


BOMBS = {
    "rows": (lambda: rows(100_000), 99_999, "claims to hold 100,000 rows"),
    "a long value for all rows": (
        lambda: repeated(2000, "id", "x" * 2**20),
        1999,
        "holds more than",
    ),
    "a value longer than the file": (
        lambda: repeated(4, "id", "x" * 2**23),
        3,
        "claims to hold",
    ),
    "long pictures": (
        lambda: rows(8, image={"bytes": b"\0" * 2**20, "path": None}),
        7,
        "claims to hold|holds more than",
    ),
    "endless traces": (
        lambda: rows(2, trace=[{"evaluations": 1, "macs": 1, "squared": 0.0}] * 10_000),
        1,
        "claims to hold",
    ),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_shard_that_grows_is_refused(tmp_path, case):
    make, last, said = BOMBS[case]
    path = hostile(tmp_path / KEY, make(), last)
    assert path.stat().st_size < 2**20
    pool = pa.default_memory_pool()
    most = max(pool.max_memory(), pool.bytes_allocated() + 2**28)
    with pytest.raises(RunFolderError, match=said):
        CellFolder(tmp_path / KEY).table()
    assert pool.max_memory() <= most


def test_a_name_that_says_other_rows_is_refused(tmp_path):
    path = hostile(tmp_path / KEY, rows(4), 3)
    other = path.with_name("shard-00000-00007.parquet")
    path.rename(other)
    cell = CellFolder(tmp_path / KEY)
    assert cell.shards() == []
    digest = {other.name: hashlib.sha256(other.read_bytes()).hexdigest()}
    with pytest.raises(RunFolderError, match="not those that its name says"):
        cell.sealed_table(digest, ["id"])


def test_a_link_without_end_is_no_shard(tmp_path):
    (tmp_path / KEY).mkdir()
    (tmp_path / KEY / "shard-00000-00003.parquet").symlink_to("/dev/zero")
    assert CellFolder(tmp_path / KEY).shards() == []


HOLES = {
    "no-trace": {"trace": None},
    "no-point": {"trace": [None]},
    "half-a-point": {"trace": [{"evaluations": 1, "macs": None, "squared": 0.0}]},
    "endless-point": {"trace": [{"evaluations": 1, "macs": 1, "squared": float("inf")}]},
    "negative-point": {"trace": [{"evaluations": -1, "macs": 1, "squared": 0.0}]},
    "no-picture": {"image": None},
    "empty-picture": {"adversarial": {"bytes": None, "path": None}},
}


@pytest.mark.parametrize("case", HOLES.values(), ids=HOLES)
def test_pictures_and_traces_with_holes_are_refused(tmp_path, case):
    (name,) = case
    folder = tmp_path / KEY
    path = hostile(folder, rows(4, **case), 3)
    with pytest.raises(RunFolderError, match=rf"{path.name} cannot be read: {name} "):
        CellFolder(folder).table()


def test_a_shard_without_a_column_is_refused(tmp_path):
    folder = tmp_path / KEY
    hostile(folder, rows(4).drop_columns(["psnr"]), 3)
    with pytest.raises(RunFolderError, match=r"has no column 'psnr' of double"):
        CellFolder(folder).table()


def test_a_trace_without_points_is_read(tmp_path):
    folder = tmp_path / KEY
    hostile(folder, rows(4, trace=[]), 3)
    assert CellFolder(folder).table().num_rows == 4
