"""Only regular files are read, and never without end."""

import os

import pytest

from bench.files.regular import check_regular, read_regular


def test_a_file_is_read_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 100)
    assert read_regular(tmp_path / "a") == b"x" * 100
    assert read_regular(tmp_path / "a", 100) == b"x" * 100


def test_a_larger_file_is_refused_before_it_is_read(tmp_path):
    with open(tmp_path / "a", "wb") as file:
        file.truncate(2**40)  # a hole
    with pytest.raises(OSError, match=r"it has 1,099,511,627,776 bytes, more than the 1,024"):
        read_regular(tmp_path / "a", 1024)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_regular, check_regular):
        with pytest.raises(OSError, match="no regular file"):
            read(tmp_path / "pipe")


@pytest.mark.skipif(not os.path.exists("/dev/zero"), reason="no such device here")
def test_a_device_is_not_read(tmp_path):
    os.symlink("/dev/zero", tmp_path / "link")
    with pytest.raises(OSError, match="no regular file"):
        read_regular(tmp_path / "link")


def test_a_folder_and_a_missing_file_are_errors_of_the_system(tmp_path):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    for _ in range(3):
        with pytest.raises(IsADirectoryError, match=f"directory: '{tmp_path}'"):
            read_regular(tmp_path)
    if before is not None:
        assert len(os.listdir("/proc/self/fd")) == before, "left open"
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent")
