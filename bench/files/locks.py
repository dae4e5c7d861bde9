"""File locks, and what to do where the system has none."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from bench.files.writing import refused


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


def _open_lock(path: Path) -> IO[str]:
    """Open a file that is to be locked; made where it is not there.

    Raises:
        OSError: something else than a regular file lies there, also a link: what it points to
            would be written to.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):  # not on every system
        flags |= getattr(os, name, 0)
    if path.is_symlink():
        raise OSError("it is a link")
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("it is no regular file")
    return open(handle, "a+")


_TRIES = 3
"""How often a file is opened that was removed before it could be locked."""


@contextlib.contextmanager
def waited(path: Path, elsewhere: str) -> Iterator[None]:
    """Hold a file for this process; others wait for it.

    Args:
        path: of the file; made where it is not there.
        elsewhere: what to do where it cannot be opened, for the hint.

    Raises:
        DiskError: it cannot be opened, or is no file.
    """
    try:
        file = _open_lock(path)
    except OSError as error:
        raise refused(error, path, "open", elsewhere=elsewhere) from error
    with file:
        wait_lock(file)
        yield


@contextlib.contextmanager
def claimed(path: Path, taken: Callable[[str], Exception], elsewhere: str = "") -> Iterator[None]:
    """Hold a file for this process, whose id is written into it; released when it ends, however it
    ends.

    Args:
        path: of the file; made where it is not there.
        taken: the error for who comes second, from the id of the process that holds it.
        elsewhere: what to do where it cannot be written, for the hint.

    Raises:
        Exception: what `taken` returns.
        DiskError: the disk refused, or it is no file.
    """
    with contextlib.ExitStack() as opened:
        for left in reversed(range(_TRIES)):
            try:
                file = opened.enter_context(_open_lock(path))
            except OSError as error:
                raise refused(error, path, "open", elsewhere=elsewhere) from error
            if not try_lock(file):
                file.seek(0)
                raise taken(file.read().strip() or "unknown")
            if _is_at(file, path) or not left:
                break
            file.close()
        try:  # past the buffer, which would be written once more when the file is closed
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), str(os.getpid()).encode())
        except OSError as error:
            raise refused(error, path) from error
        yield


def _is_at(file: IO[str], path: Path) -> bool:
    """Whether an open file still lies there: who held it before may have removed it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except OSError:
        return False


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
