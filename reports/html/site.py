"""A report folder that is there whole or not at all.

Files go into a folder beside the goal, which takes the goal's place when the last one is on disk. A
folder that is not a report of ours is never replaced, nor is one that somebody put a file into.
"""

from __future__ import annotations

import glob
import os
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from bench.files.locks import locked_folder
from bench.files.marked import SAID, STAMP, check_replaceable, stamp
from bench.files.writing import ELSEWHERE, refused

PARTIAL, OLD = ".partial", ".old"
"""How the names of folders beside a report end: one that is being made, one that is replaced."""

File = tuple[str, bytes]
"""(path inside the report, with forward slashes; content)."""


def write_site(files: Iterable[File], out: Path, *, elsewhere: str = ELSEWHERE) -> None:
    """Write the files and put them where `out` is, in place of an older report.

    Where `out` is a link, the folder that it leads to is written. Reports to the same folder wait
    for each other; the last one stays.

    Args:
        files: of the report.
        out: the folder.
        elsewhere: how to name another one.

    Raises:
        RunFolderError: `out` holds something that is not of a report.
        DiskError: the disk refused a write; an older report is still there.
    """
    if out.is_symlink():
        out = Path(os.path.realpath(out))
    if out.name in ("", ".."):
        out = Path(os.path.abspath(out))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder(out.parent):
            check_replaceable(out)
            _sweep(out)
            _replace(files, out)
    except OSError as error:
        raise refused(error, out, elsewhere=elsewhere) from error


def _replace(files: Iterable[File], out: Path) -> None:
    """Make the report beside `out`, then let it take its place."""
    made = Path(tempfile.mkdtemp(PARTIAL, f".{out.name}.", out.parent))
    old = made.with_suffix(OLD)
    try:
        made.chmod(0o777 & ~_umask())
        (made / STAMP).write_bytes(SAID)
        for name, content in files:
            place = made / _inside(name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        (made / STAMP).write_bytes(stamp(made))
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(made, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
        if out.exists():
            shutil.rmtree(old, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what reports that were killed left beside `out`; put back the one they moved away."""
    for path in sorted(out.parent.glob(f".{glob.escape(out.name)}.*")):
        if path.suffix not in (PARTIAL, OLD) or path.is_symlink() or not (path / STAMP).is_file():
            continue
        if path.suffix == OLD and not out.exists():
            os.replace(path, out)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _umask() -> int:
    """The process's mask for new files; asking for it means setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{name!r} is no path inside a report")
    return path
