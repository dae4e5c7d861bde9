"""Files that claim more than they hold, refused before memory is taken for the claim.

A few hundred bytes may claim terabytes: a zip entry that unpacks to a thousand times its size, an
array header with a shape of billions, a header length beyond the end of the file.
"""

from __future__ import annotations

import contextlib
import math
import re
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from bench.errors import WeightsError

MAX_ENTRIES = 100_000
_DEFLATE = 1032
"""The most that deflate makes of one byte."""
_ALWAYS = 2**28
"""Bytes that an archive may always unpack to."""
_RATIO = 8
"""Beyond that, how many times its own size; weights hardly compress."""
_PACKED = re.compile(rb'"([^"]*)"\s*:\s*\{\s*"dtype"\s*:\s*"(F4|F6_\w+|F8_\w+|E\d\w+)"')
"""Tensors of fewer than 16 bits a number in a header of safetensors, whether torch has the type."""
AGAIN = "it may be cut short; fetch it again"


def check_safetensors(path: Path, head: bytes) -> None:
    """Refuse a safetensors file whose header would end behind the file, or names packed types.

    Raises:
        WeightsError: naming both lengths, or the first tensor of such a type.
    """
    claimed, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if claimed > size - 8:
        raise WeightsError(
            f"{path} is a damaged safetensors file: it claims a header of {claimed:,} bytes, "
            f"the whole file has {size:,}",
            hint=AGAIN,
        )
    with open(path, "rb") as file:
        file.seek(8)
        header = file.read(min(claimed, size))
    for name, kind in _PACKED.findall(header):
        raise WeightsError(
            f"{path} holds weights that are not those the network was trained to: "
            f"{name[:80].decode('utf-8', 'replace')} ({kind.decode()})",
            hint="save the original floating-point weights",
        )


def names_in_zip(path: Path) -> list[str]:
    """The entries of a zip archive that claims no more than it holds.

    Raises:
        WeightsError: it is cut short, encrypted, packed in a way that no checkpoint is, or claims
            more than it holds.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise WeightsError(
            f"{path} is cut short: the end of the archive is missing",
            hint="the download broke off; fetch it again",
        ) from error
    size = path.stat().st_size
    if len(entries) > MAX_ENTRIES:
        raise WeightsError(f"{path} is an archive of {len(entries):,} files, no checkpoint")
    names = [entry.filename for entry in entries]
    if len(set(names)) != len(names):
        raise WeightsError(f"{path} is an archive that holds a file twice under one name")
    for entry in entries:
        if entry.flag_bits & 1:
            raise WeightsError(f"{path} is encrypted", hint="unpack it first")
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise WeightsError(
                f"{path} is packed in a way that no checkpoint is "
                f"(zip method {entry.compress_type})",
                hint="unpack it first",
            )
        packed = entry.compress_type == zipfile.ZIP_DEFLATED
        most = entry.compress_size * _DEFLATE + 64 if packed else entry.compress_size
        if entry.file_size > most:
            raise _claims(path, entry.filename, entry.file_size, entry.compress_size)
    if sum(entry.compress_size for entry in entries) > size:
        raise WeightsError(f"{path} is damaged: its entries overlap", hint=AGAIN)
    total = sum(entry.file_size for entry in entries)
    if total > max(_ALWAYS, _RATIO * size):
        raise WeightsError(
            f"{path} unpacks to {total:,} bytes, {total // max(size, 1)} times its own size; "
            "no weights compress like that",
            hint="a file of zeros, or made to fill memory",
        )
    return names


def data_pickle(names: Sequence[str]) -> str:
    """The entry of a torch archive that is its pickle, "" where there is none."""
    found = (name for name in names if name == "data.pkl" or name.endswith("/data.pkl"))
    return next(found, "")


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry of an archive, also of one that was written without check sums.

    Raises:
        zipfile.BadZipFile, zlib.error, OSError: it is damaged.
    """
    entry = archive.getinfo(name)
    if not getattr(entry, "CRC", 0):
        with contextlib.suppress(AttributeError):
            del entry.CRC  # zipfile then compares nothing
    return archive.read(entry)


def check_sums(path: Path) -> None:
    """Refuse a zip archive whose entries are not what was written, by its own check sums.

    Torch does not look at them; it can also be told to leave them 0, and then there are none.

    Raises:
        WeightsError: naming the entry.
    """
    name = ""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if not any(entry.CRC for entry in entries):
                return
            for entry in entries:
                name = entry.filename
                with archive.open(entry) as file:
                    while file.read(2**20):
                        pass
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        raise WeightsError(f"{path} is damaged: {name[:80]!r}: {error}", hint=AGAIN) from error


def check_arrays(path: Path) -> None:
    """Refuse an .npz archive with an array that is larger by its header than by its bytes.

    Raises:
        WeightsError: naming the array.
    """
    from numpy.lib import format as npy

    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    version = npy.read_magic(file)
                    read = (
                        npy.read_array_header_1_0
                        if version == (1, 0)
                        else npy.read_array_header_2_0
                    )
                    shape, _, kind = read(file)
                    claimed = math.prod(shape) * kind.itemsize + file.tell()
                if not kind.hasobject and claimed > entry.file_size:
                    raise _claims(path, entry.filename, claimed, entry.file_size)
    except (ValueError, EOFError, OSError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise WeightsError(f"{path} is damaged: {error}", hint=AGAIN) from error


def check_total(path: Path, claimed: int) -> None:
    """Refuse tensors that together are much larger than their file, as views of few numbers are.

    Args:
        path: of the file.
        claimed: bytes of all tensors when each has memory of its own.

    Raises:
        WeightsError: naming both sizes.
    """
    size = path.stat().st_size
    if claimed > max(_ALWAYS, _RATIO * size):
        raise WeightsError(
            f"{path} holds {size:,} bytes and claims tensors of {claimed:,}",
            hint="save the tensors themselves, not expanded views of them",
        )


def _claims(path: Path, name: str, claimed: int, held: int) -> WeightsError:
    return WeightsError(
        f"{path} claims more than it holds: {name[:80]!r} {claimed:,} bytes of {held:,}", hint=AGAIN
    )
