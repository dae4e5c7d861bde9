import errno
import os
from pathlib import Path

import pytest

from bench.errors import DiskError
from bench.files.atomic import write_atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a.bin"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file_and_names_the_new(tmp_path, monkeypatch, step):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, refuse)
    with pytest.raises(DiskError, match="No space left") as caught:
        write_atomic(path, b"new")
    assert str(path) in caught.value.message
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_ctrl_c_leaves_no_part(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.bin", b"new")
    assert os.listdir(tmp_path) == []


def test_missing_folder(tmp_path):
    with pytest.raises(DiskError, match="No such file"):
        write_atomic(tmp_path / "nowhere" / "a", b"")


def test_flushes_before_renaming(tmp_path, monkeypatch):
    order = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, real=real: (order.append(name), real(*a))[1]
        )
    write_atomic(tmp_path / "a", b"x")
    assert order == ["fsync", "replace", "fsync"]


@pytest.mark.skipif(not os.path.exists("/dev/null"), reason="there are no devices")
@pytest.mark.parametrize("name", ["null", "stdout"])
def test_no_file_takes_the_place_of_a_device(monkeypatch, name):
    """Root may replace /dev/null by a file, and every program of the machine would write there."""
    for step in ("open", "replace"):
        monkeypatch.setattr(os, step, lambda *_: pytest.fail("something is written there"))
    monkeypatch.setattr("bench.files.atomic.open", os.open, raising=False)
    with pytest.raises(DiskError, match="device") as caught:
        write_atomic(Path("/dev") / name, b"{}")
    assert caught.value.exit_code == 6
    with pytest.raises(DiskError, match="device"):
        write_atomic(Path("/dev/../dev") / name, b"{}")


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_no_file_takes_the_place_of_a_folder(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiskError, match="directory"):
        write_atomic(Path(name), b"{}")
    assert os.listdir(tmp_path) == []
