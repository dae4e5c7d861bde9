"""Folders and files where a user wants them, and what to do where the disk refuses: that depends on
why it does."""

from __future__ import annotations

import errno
from pathlib import Path

from bench.errors import DiskError

_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_TOO_MANY = {errno.EMFILE, errno.ENFILE}
_FAULTY = {errno.EIO, getattr(errno, "ESTALE", errno.EIO)}

ELSEWHERE = "choose another folder with --out"
"""The way on of most commands where a place takes no file."""
COPY = "copy the run to a folder that can be written to, and name that one"
"""The way on of commands that add to a run where it lies."""


def make_folder(folder: Path, *, elsewhere: str = ELSEWHERE) -> None:
    """Make a folder and those above it, unless it is there.

    Args:
        folder: to make.
        elsewhere: as `refused` takes it.

    Raises:
        DiskError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refused(error, folder, "make", elsewhere=elsewhere) from error


def refused(
    error: OSError, path: Path, doing: str = "write", *, elsewhere: str = ELSEWHERE
) -> DiskError:
    """The error of a command that could not write.

    Args:
        error: of the system.
        path: that was to be written.
        doing: what was to be done with it.
        elsewhere: how to write somewhere else, where this place takes nothing: it is read-only or
            somebody else's, or something else lies there.
    """
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        hint = "free some space, then run the same command again"
    elif error.errno in _TOO_MANY:
        hint = "raise the limit of open files ('ulimit -n'), then run the same command again"
    elif error.errno in _FAULTY:
        hint = f"look whether the disk is sound and connected, or {elsewhere}"
    else:
        hint = elsewhere
    return DiskError(f"cannot {doing} {path}: {reason}", hint=hint)
