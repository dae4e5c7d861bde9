"""A report folder that is there whole or not at all.

Files go into a folder beside the goal, which takes the goal's place when the last one is on disk. A folder that is not a report
of ours is never replaced.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bench.errors import DiskError, RunFolderError

STAMP = ".gatebench-report"
"""Marks a folder as one that may be replaced."""

File = tuple[str, bytes]
"""(path inside the report, with forward slashes; content)."""


def write_site(files: Iterable[File], out: Path) -> None:
    """Write the files and put them where `out` is, in place of an older report.

    Raises:
        RunFolderError: `out` holds something that is not a report.
        DiskError: the disk refused a write; an older report is still there.
    """
    refuse_foreign(out)
    partial, old = out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.old")
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in files:
            place = partial / _inside(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (partial / STAMP).write_bytes(b"written by gatebench; this folder is replaced as a whole\n")
        if out.exists():
            os.replace(out, old)
        os.replace(partial, out)
    except OSError as error:
        if old.exists() and not out.exists():
            os.replace(old, out)
        raise DiskError(
            f"the report could not be written to {out}: {error.strerror or error}",
            hint="make room, then run the same command again",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def refuse_foreign(out: Path) -> None:
    """Raise unless `out` is absent, an empty folder or an earlier report."""
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / STAMP).exists()):
        raise RunFolderError(
            f"{out} is there and is not a report of gatebench; it was left alone",
            hint="choose another folder",
        )


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no path inside a report")
    return path
