"""Reading files that somebody else may have put there: regular ones only, and not without end."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

LARGEST = 2**31
"""Bytes that a file may have where nobody says otherwise."""
ANY_SIZE = 2**62
_UNSTATED = 2**24
"""Bytes that are read of a file whose size is not stated, as in /proc."""


def check_regular(path: Path) -> None:
    """Refuse what is no regular file.

    Raises:
        OSError: it is not there, or no regular file.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError("it is no regular file")


def read_regular(path: Path, largest: int = LARGEST) -> bytes:
    """The content of a regular file.

    A pipe would block its reader, and a device such as /dev/zero never ends.

    Args:
        path: of the file; links are followed.
        largest: bytes that it may have.

    Raises:
        OSError: it is not there, cannot be read, is no regular file, or is larger.
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    if stat.S_ISDIR(os.fstat(handle).st_mode):  # `open` would leave it open, and name its number
        os.close(handle)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with open(handle, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is no regular file")
        if status.st_size > largest:
            raise OSError(f"it has {status.st_size:,} bytes, more than the {largest:,} allowed")
        data = file.read(min(largest, max(status.st_size, _UNSTATED)) + 1)
    if len(data) > largest:
        raise OSError(f"it has more than {largest:,} bytes")
    return data
