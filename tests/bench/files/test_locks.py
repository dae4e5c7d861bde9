"""A file that one process holds."""

import os

import pytest

from bench.errors import DiskError, InUse
from bench.files import locks


def taken(owner):
    return InUse(f"process {owner}")


def test_a_file_that_its_holder_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    """Opened before it was removed, locked after: whoever comes next has to meet the same file."""
    path, plain, left = tmp_path / "lock", locks.try_lock, [None]

    def removed_first(file):
        if left:
            left.pop()
            path.unlink()
        return plain(file)

    monkeypatch.setattr(locks, "try_lock", removed_first)
    with locks.claimed(path, taken):
        assert path.is_file()
        with pytest.raises(InUse, match=r"process \d+"), locks.claimed(path, taken):
            pass


def link(path):
    kept = path.with_name("kept")
    kept.write_text("kept")
    path.symlink_to(kept)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(link, "it is a link", id="link"),
        pytest.param(device, "it is a link", id="link to a device"),
        pytest.param(os.mkfifo, "it is no regular file", id="pipe"),
        pytest.param(os.mkdir, "directory", id="folder"),
    ],
)
def test_only_a_regular_file_is_held(tmp_path, make, said):
    """The id of a process would be written into the file that a link points to."""
    make(tmp_path / "lock")
    with (
        pytest.raises(DiskError, match=f"cannot open .*lock: .*{said}"),
        locks.claimed(tmp_path / "lock", taken),
    ):
        pass
    if make is link:
        assert (tmp_path / "kept").read_text() == "kept"
