"""The run folder: what is missing, what counts, what a file says of how it was made."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.contracts.cell import Cell, Component, Protocol
from bench.contracts.threat import parse_threat
from bench.errors import DiskError, RunFolderError
from bench.files.canonical import canonical, digest
from bench.runs.seal import seal
from bench.store.documents import read_json
from bench.store.folder import CellFolder, RunFolder, find_run, same_record
from bench.store.schema import ROWS

KEY = "k" * 64
PART = Component("toy", "tests", "toys:Toy", "toy", {})
CELL = Cell(Protocol("d:test", 8, 4, parse_threat("none"), 9, 0, 1), PART, PART)
RECORD = {"threads": 1, "device": "cpu x", "versions": {"torch": "2"}, "sources": {"attack": "a"}}


def rows(first, last):
    picture = {"bytes": b"png", "path": None}
    empty = {"string": "x", "int64": 0, "double": 0.5, "binary": b"\x80", "bool": False}
    return [{field.name: empty.get(str(field.type), [] if field.name == "trace" else picture) for field in ROWS} | {"label": i, "id": f"i{i}", "l2": 0.0, "psnr": 120.0} for i in
            range(first, last + 1)]  # fmt: skip


@pytest.fixture
def cell(tmp_path):
    return RunFolder(tmp_path / "r").cell(KEY, create=True)


def written(cell, *spans, record=RECORD):
    for first, last in spans:
        cell.write_shard(first, last, rows(first, last), record)


def test_a_full_disk_names_the_lock(tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "r")
    run.create()
    with run.locked():
        assert (run.path / "lock").read_text() == str(os.getpid())

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(DiskError, match=r"cannot write .*lock: No space left"), run.locked():
        pass


def test_what_is_missing_is_whole_batches(cell):
    assert cell.missing(10, 4, 4) == [(0, 3), (4, 7), (8, 9)]
    assert cell.missing(10, 8, 4) == [(0, 7), (8, 9)]
    assert cell.missing(10, 5, 4) == [(0, 3), (4, 7), (8, 9)], (
        "a shard is a whole number of batches"
    )
    assert cell.missing(10, 1, 4) == [(0, 3), (4, 7), (8, 9)], "and at least one"
    written(cell, (4, 7))
    assert cell.missing(10, 100, 4) == [(0, 3), (8, 9)]
    written(cell, (0, 3), (8, 9))
    assert cell.missing(10, 4, 4) == []


@given(st.integers(1, 70), st.integers(1, 20), st.integers(1, 9), st.data())
def test_missing_shards_cover_each_image_once(tmp_path_factory, images, size, batch, data):
    from unittest.mock import patch

    starts = list(range(0, images, batch))
    there = data.draw(st.sets(st.sampled_from(starts)))
    done = [
        type("S", (), {"first": start, "last": min(start + batch, images) - 1})() for start in there
    ]
    with patch.object(CellFolder, "shards", lambda self: done):
        missing = CellFolder(tmp_path_factory.getbasetemp()).missing(images, size, batch)
    covered = [i for first, last in missing for i in range(first, last + 1)]
    assert sorted(covered) == [
        i
        for start in starts
        if start not in there
        for i in range(start, min(start + batch, images))
    ]
    assert len(covered) == len(set(covered))
    assert all(
        first % batch == 0 and (last + 1 - first <= max(size, batch)) for first, last in missing
    )


def test_only_whole_shards_of_this_cell_count(cell, tmp_path):
    written(cell, (0, 3), (4, 7))
    assert [(shard.first, shard.last) for shard in cell.shards()] == [(0, 3), (4, 7)]
    second = cell.path / "shard-00004-00007.parquet"
    second.write_bytes(second.read_bytes()[:-20])
    (cell.path / "shard-00008-00009.parquet").write_bytes(b"")
    (cell.path / "shard-x.parquet").write_bytes(b"")
    other = RunFolder(tmp_path / "r").cell("o" * 64, create=True)
    written(other, (8, 11))
    (other.path / "shard-00008-00011.parquet").rename(cell.path / "shard-00008-00011.parquet")
    assert [(shard.first, shard.last) for shard in cell.shards()] == [(0, 3)]
    assert cell.table()["label"].to_pylist() == [0, 1, 2, 3]


def test_shards_that_overlap_count_once(cell):
    written(cell, (0, 3), (4, 7), (0, 7))
    assert [(shard.first, shard.last) for shard in cell.shards()] == [(0, 7)]
    assert cell.table()["label"].to_pylist() == list(range(8))


def test_bytes_are_reproducible_and_tell_nothing_of_where_and_when(cell, tmp_path):
    path = cell.write_shard(0, 3, rows(0, 3), RECORD)
    first = path.read_bytes()
    shuffled = {name: RECORD[name] for name in sorted(RECORD, reverse=True)}
    assert cell.write_shard(0, 3, rows(0, 3), shuffled).read_bytes() == first
    metadata = pq.read_schema(path).metadata
    assert set(metadata) == {b"gatebench"}
    assert json.loads(metadata[b"gatebench"]) == {**RECORD, "key": KEY, "schema": 1}
    assert metadata[b"gatebench"] == canonical({**RECORD, "key": KEY, "schema": 1})
    for secret in (str(tmp_path), os.uname().nodename):
        assert secret.encode() not in first
    assert pq.ParquetFile(path).metadata.num_row_groups == 1


def test_the_same_bytes_in_another_process(cell):
    path = cell.write_shard(0, 3, rows(0, 3), RECORD)
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\nfrom pathlib import Path\nfrom test_folder import RECORD, rows\n"
        "from bench.store.folder import CellFolder\nCellFolder(Path(sys.argv[1])).write_shard(0, 3, rows(0, 3), RECORD)"
    )
    before = path.read_bytes()
    path.unlink()
    subprocess.run(
        [sys.executable, "-c", code, str(cell.path), os.path.dirname(__file__)],
        check=True,
        timeout=60,
    )
    assert path.read_bytes() == before


def test_sealing_sums_exactly_and_flags(cell):
    written(cell, (0, 3), (4, 7))
    sealed = seal(cell, CELL, "ok")
    assert sealed == cell.sealed()
    assert sealed.aggregates["images"] == 8
    assert sealed.flags == ()
    assert set(sealed.shards) == {"shard-00000-00003.parquet", "shard-00004-00007.parquet"}
    assert cell.altered(sealed.shards) == []
    many = [
        {**row, "overshoot": True, "near_threshold": 2, "clean_macs": 2**40} for row in rows(4, 7)
    ]
    cell.write_shard(4, 7, many, {**RECORD, "threads": 2})
    assert cell.altered(sealed.shards) == ["shard-00004-00007.parquet"]
    sealed = seal(cell, CELL, "ok")
    assert sealed.flags == ("left-threat", "near-threshold", "mixed-environment")
    assert sealed.aggregates["clean_macs"] == 4 * 2**40
    assert sealed.aggregates["near_threshold"] == 8
    failed = seal(cell, CELL, "failed", "why", "trace")
    assert (failed.status, failed.reason, failed.detail) == ("failed", "why", "trace")
    assert (failed.shards, failed.aggregates) == ({}, {})
    assert failed == cell.sealed()


def test_a_shard_of_another_length_than_its_name_says_does_not_count(cell):
    written(cell, (0, 3))
    cell.write_shard(4, 7, rows(4, 6), RECORD)
    assert [(shard.first, shard.last) for shard in cell.shards()] == [(0, 3)]
    assert cell.missing(8, 4, 4) == [(4, 7)]


def test_clearing_a_cell_follows_no_link(cell, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (cell.path / "link").symlink_to(outside)
    (cell.path / "folder" / "inner").mkdir(parents=True)
    cell.clear()
    assert list(cell.path.iterdir()) == []
    assert (outside / "kept").read_text() == "kept"
    cell.path.rmdir()
    cell.path.symlink_to(outside)
    cell.clear()
    assert not cell.path.exists()
    assert (outside / "kept").read_text() == "kept"


def test_records_are_compared_name_by_name(cell):
    written(cell, (0, 3))
    assert same_record(cell.shards(), RECORD) == {}
    assert same_record(cell.shards(), {"threads": 1}) == {}
    assert same_record(cell.shards(), {**RECORD, "threads": 2, "new": 3}) == {
        "threads": (1, 2),
        "new": (None, 3),
    }


def test_sweeping_takes_half_files_only(cell):
    written(cell, (0, 3))
    (cell.path / ".shard-00004-00007.parquet.ab12cd34.part").write_bytes(b"half")
    cell.sweep()
    assert [path.name for path in cell.path.iterdir()] == ["shard-00000-00003.parquet"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cannot be read"),
        ("[1]", "no document"),
        ('{"schema": 2}', "upgrade gatebench"),
        ("\xff", "cannot be read"),
    ],
)
def test_documents_that_cannot_be_read(tmp_path, text, said):
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(RunFolderError, match=said) as caught:
        read_json(path)
    assert caught.value.exit_code == 5
    with pytest.raises(RunFolderError, match="is not there"):
        read_json(tmp_path / "nothing.json")


def test_one_process_holds_a_run(tmp_path):
    run = RunFolder(tmp_path / "r")
    run.create()
    code = (
        "import sys\nfrom pathlib import Path\nfrom bench.store.folder import RunFolder\nfrom bench.errors import RunFolderError\n"
        "try:\n    with RunFolder(Path(sys.argv[1])).locked():\n        print('held')\nexcept RunFolderError as error:\n    print(error)"
    )
    ask = [sys.executable, "-c", code, str(run.path)]
    with run.locked():
        said = subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout
        assert f"in use by another gatebench (process {os.getpid()})" in said
    assert subprocess.run(ask, capture_output=True, text=True, timeout=60).stdout == "held\n"


def test_canonical_documents():
    assert canonical({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1}) != digest({"a": 1, "b": 3})
    with pytest.raises(ValueError, match="JSON"):
        canonical({"a": float("nan")})


def test_a_run_that_must_not_be_read_is_not_said_to_be_missing(tmp_path, monkeypatch):
    plain = Path.is_file

    def guarded(path):
        if path.parent == tmp_path / "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    monkeypatch.setattr(Path, "is_file", guarded)
    with pytest.raises(RunFolderError, match="closed cannot be read: Permission denied"):
        find_run("closed", tmp_path)
