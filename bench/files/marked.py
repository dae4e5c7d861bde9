"""Folders of reports: a mark in each says which files are a report's, and so may be replaced."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from bench.errors import RunFolderError
from bench.files.locks import locked_folder
from bench.files.regular import read_regular
from bench.files.writing import refused

STAMP = ".gatebench-report"
"""Marks a folder as one that may be replaced, and names the files that it was written with."""
SAID = b"written by gatebench; this folder is replaced as a whole\n"
"""The first line of the mark."""
_LEFT = (".ds_store", "thumbs.db", "desktop.ini")
"""What file managers leave in a folder that somebody looks at, in small letters."""


def check_replaceable(out: Path) -> None:
    """Refuse a folder that is neither absent, nor empty, nor an earlier report as it was written.

    Only under the lock of the folder around it is sure that no report is just taking its place.

    Raises:
        RunFolderError: it holds something else.
        DiskError: it cannot be read.
    """
    if not out.exists():
        return
    if not out.is_dir() or (any(out.iterdir()) and not (out / STAMP).exists()):
        raise RunFolderError(
            f"{out} is there and is not a report of gatebench; it was left alone",
            hint="choose another folder",
        )
    try:
        said = read_regular(out / STAMP) if any(out.iterdir()) else b""
        written = os.fsdecode(said.removeprefix(SAID)).splitlines()
        strange = sorted(set(_files(out)) - set(written)) if written else []
    except OSError as error:
        raise refused(error, out, "read") from error
    if strange:
        raise RunFolderError(
            f"{out} holds {strange[0]}, which is of no report of gatebench; it was left alone",
            hint="move that away, or choose another folder",
        )


@contextlib.contextmanager
def filling(out: Path) -> Iterator[None]:
    """A block in which a report writes into a folder: one that holds nothing of somebody else's.

    What it wrote belongs to the folder's report afterwards.

    Args:
        out: the folder.

    Raises:
        RunFolderError: it holds something that is not of a report.
        DiskError: the disk refused.
    """
    try:
        check_replaceable(out)
    except RunFolderError:  # or another report was just taking the place of an older one
        with locked_folder(Path(os.path.realpath(out)).parent):
            check_replaceable(out)
    out = Path(os.path.abspath(out))  # a report may take the place of the working folder
    yield
    try:
        if out.is_dir() and any(out.iterdir()):
            said = stamp(out)
            if not (out / STAMP).is_file() or (out / STAMP).read_bytes() != said:
                (out / STAMP).write_bytes(said)
    except OSError as error:
        raise refused(error, out) from error


def stamp(folder: Path) -> bytes:
    """What the mark of a report says: its files, a line each."""
    return SAID + b"".join(os.fsencode(name) + b"\n" for name in _files(folder))


def _files(folder: Path) -> list[str]:
    """Paths of the files and links below a folder, with forward slashes, in order; not its mark."""
    found = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in [*names, *links]:
            path = os.path.relpath(os.path.join(place, name), folder).replace(os.sep, "/")
            if path != STAMP and name.lower() not in _LEFT:
                found.append(path)
    return sorted(found)
