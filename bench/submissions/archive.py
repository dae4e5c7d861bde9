"""Archives from strangers: what a zip file holds, refused before anything of it is believed.

An archive is data. Nothing in it is executed, and nothing is unpacked to disk: files are read by
name, each up to the size that was checked before.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from bench.errors import SubmissionError
from bench.files.names import is_portable

MOST_BYTES = 2**30
"""Bytes of an archive at most."""
MOST_UNPACKED = 2**30
"""Bytes of all files in it together, unpacked, at most."""
MOST_FILES = 65_000
"""Files in it at most."""
MOST_OF_A_FILE = 2**26
"""Bytes of one file, unpacked, at most."""

_MOST_DIRECTORY = 2**24
_DEFLATE = 1032
"""The most that deflate makes of one byte."""
_HEAD = 30
"""Bytes of the header in front of each file, without its name."""
_END = struct.Struct("<4s4H2LH")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*")
_LONGEST_NAME = 200


class Archive:
    """The files of a checked archive, open while the context lasts.

    Args:
        path: of the zip file.

    Attributes:
        path: of the zip file.
        sha256: of its bytes, hex.
        names: of its files, in order.

    Raises:
        SubmissionError: it is no plain zip archive, or claims more than is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not os.path.isfile(path) or os.path.islink(path):  # False for what is no path at all
            raise self._refused("is no plain file")
        with contextlib.ExitStack() as opened:
            try:
                file = opened.enter_context(open(path, "rb"))
                self._check_end(file)
                file.seek(0)
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self._zip = opened.enter_context(zipfile.ZipFile(file))
            except OSError as error:
                raise self._refused(f"cannot be read: {error.strerror or error}") from error
            except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
                raise self._refused(f"is a damaged zip archive ({type(error).__name__})") from error
            entries = [entry for entry in self._zip.infolist() if not _is_folder(entry)]
            for entry in entries:
                self._check_entry(entry)
            self._check_together(entries)
            self._entries = {entry.filename: entry for entry in entries}
            self.names = tuple(self._entries)
            self._opened = opened.pop_all()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def read(self, name: str) -> bytes:
        """The content of one file.

        Raises:
            SubmissionError: there is no such file, or its bytes are damaged.
        """
        if name not in self._entries:
            raise self._refused(f"does not hold {name[:80]!r}")
        entry = self._entries[name]
        try:
            with self._zip.open(entry) as file:
                data = file.read(entry.file_size + 1)
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError) as error:
            raise self._refused(f"holds {name!r} with damaged bytes") from error
        if len(data) != entry.file_size:
            raise self._refused(f"holds {name!r} with another length than it states")
        return data

    def _refused(self, text: str) -> SubmissionError:
        return SubmissionError(f"{self.path} {text}")

    def _check_end(self, file: BinaryIO) -> None:
        """Refuse what is no zip archive of one piece, before its directory is read."""
        size = file.seek(0, os.SEEK_END)
        if size > MOST_BYTES:
            raise self._refused(f"has {size:,} bytes, more than the {MOST_BYTES:,} that are read")
        file.seek(0)
        head = file.read(4)
        file.seek(max(size - _END.size, 0))
        tail = file.read()
        if head != b"PK\x03\x04" or len(tail) != _END.size or tail[:4] != b"PK\x05\x06":
            raise self._refused(
                "is no zip archive, or one with something before, behind or beside its files"
            )
        _, disk, first, here, count, length, offset, comment = _END.unpack(tail)
        if disk or first or here != count or comment or offset + length + _END.size != size:
            raise self._refused("is no zip archive of one piece")
        if count > MOST_FILES or length > _MOST_DIRECTORY:
            raise self._refused(
                f"holds {count:,} files, more than the {MOST_FILES:,} that are read"
            )

    def _check_entry(self, entry: zipfile.ZipInfo) -> None:
        name = entry.orig_filename
        shown = repr(name[:80])
        if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME or entry.filename != name:
            raise self._refused(
                f"holds a file called {shown}; names are letters, digits, '.', '_' and '-', with "
                "'/' between folders"
            )
        for part in name.split("/"):
            if not is_portable(part):
                raise self._refused(f"holds {shown}, which is no name of a file on every system")
        kind = stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise self._refused(f"holds {shown}, which is a link or another special file")
        if entry.flag_bits & 1:
            raise self._refused(f"holds {shown}, which is encrypted")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._refused(
                f"holds {shown}, packed by method {entry.compress_type}; stored and deflated files "
                "are read"
            )
        packed = entry.compress_type == zipfile.ZIP_DEFLATED
        most = entry.compress_size * _DEFLATE + 64 if packed else entry.compress_size
        if entry.file_size > min(most, MOST_OF_A_FILE):
            raise self._refused(f"holds {shown}, which unpacks to {entry.file_size:,} bytes")

    def _check_together(self, entries: Sequence[zipfile.ZipInfo]) -> None:
        seen: dict[str, str] = {}
        for entry in entries:
            name = entry.filename
            before = seen.get(name.lower())
            if before is not None:
                both = f"{name!r} twice" if before == name else f"{before!r} and {name!r}"
                raise self._refused(f"holds {both}, one file on many systems")
            seen[name.lower()] = name
        for name in seen:
            folder = name.rpartition("/")[0]
            if folder in seen:
                raise self._refused(f"holds {folder!r} as a file and as a folder")
        total = sum(entry.file_size for entry in entries)
        if total > MOST_UNPACKED:
            raise self._refused(
                f"unpacks to {total:,} bytes, more than the {MOST_UNPACKED:,} that are read"
            )
        order = sorted(entries, key=lambda entry: entry.header_offset)
        for entry, following in itertools.pairwise(order):
            if entry.header_offset + _HEAD + entry.compress_size > following.header_offset:
                raise self._refused("is damaged: its files overlap")


def _is_folder(entry: zipfile.ZipInfo) -> bool:
    """Whether an entry only names a folder, as many programs write them."""
    return (
        entry.is_dir() and not entry.file_size and _NAME.fullmatch(entry.filename[:-1]) is not None
    )
