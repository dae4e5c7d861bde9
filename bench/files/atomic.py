"""Atomic writes: a file is there whole or not at all, whenever the process ends."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from bench.files.writing import ELSEWHERE, refused


def write_atomic(path: Path, data: bytes, *, elsewhere: str = ELSEWHERE) -> None:
    """Write a file whole or not at all.

    `data` goes to a temporary name in the same folder, is flushed to disk, and renamed into place.
    Until the rename an older file at `path` stays as it was; afterwards the new one survives a
    power cut, because the folder is flushed too. No temporary file is left behind unless the
    process is killed.

    Args:
        path: the file to write or replace; its folder must exist.
        data: the whole content.
        elsewhere: how to write to another place, where this one takes no file.

    Raises:
        DiskError: the disk refused (full, read-only, no such folder), naming the file.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _flush_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise refused(error, path, elsewhere=elsewhere) from error
        raise


def _flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable; a no-op where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
