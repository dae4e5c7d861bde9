"""Atomic writes: a file is there whole or not at all, whenever the process ends."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Mapping
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
        DiskError: the disk refused (full, read-only, no such folder), or something lies there that
            a file must not replace; names the file.
    """
    write_together({path: data}, elsewhere=elsewhere)


def write_together(files: Mapping[Path, bytes], *, elsewhere: str = ELSEWHERE) -> None:
    """Write files that vouch for each other, each as `write_atomic` does.

    None is renamed into place before all are on the disk. So a disk that is full leaves all of the
    older files as they were.

    Args:
        files: path -> whole content, in the order of the renames.
        elsewhere: as `write_atomic` takes it.

    Raises:
        DiskError: as `write_atomic`; names the file.
    """
    drafts: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in files.items():
            check_takes_file(path, elsewhere=elsewhere)
            drafts[path] = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            with open(drafts[path], "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for path, draft in drafts.items():
            os.replace(draft, path)
        for folder in dict.fromkeys(path.parent for path in drafts):
            _flush_folder(folder)
    except BaseException as error:
        for draft in drafts.values():
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise refused(error, path, elsewhere=elsewhere) from error
        raise


def check_takes_file(path: Path, *, elsewhere: str = ELSEWHERE) -> None:
    """Refuse a place where a file would take that of a folder or a device.

    Who may write there would lose /dev/null, or the link /dev/stdout, for every program.

    Args:
        path: that is to be written.
        elsewhere: as `write_atomic` takes it.

    Raises:
        DiskError: naming the place.
    """
    reason = ""
    try:
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            reason = os.strerror(errno.EISDIR)
        elif stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or _is_among_devices(path):
            reason = "it is a device, and a file would take its place"
    except OSError:
        return  # it is not there, or the system will say why it cannot be written
    if reason:
        raise refused(OSError(errno.EISDIR, reason), path, elsewhere=elsewhere)


def _is_among_devices(path: Path) -> bool:
    return os.path.realpath(path.parent) == "/dev"


def _flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` durable; a no-op where folders cannot be opened (Windows)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
