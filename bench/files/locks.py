"""File locks, and what to do where the system has none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def wait_lock(file: IO[str]) -> None:
    try:
        import fcntl
    except (
        ImportError
    ):  # not a POSIX system: what is guarded so is deterministic and written atomically anyway
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def try_lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except (
        ImportError
    ):  # not a POSIX system: two runs on one folder only cost double work, writes are atomic anyway
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder itself, so that two writers of one manifest keep both entries."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
