"""A file that one process holds."""

import pytest

from bench.errors import InUse
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
