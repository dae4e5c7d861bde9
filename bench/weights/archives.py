"""Files that claim more than they hold, refused before memory is taken for the claim.

A few hundred bytes may claim terabytes: a zip entry that unpacks to a thousand times its size, an
array header with a shape of billions, a header length beyond the end of the file.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

from bench.errors import WeightsError

MAX_ENTRIES = 100_000
_DEFLATE = 1032
"""The most that deflate makes of one byte."""
_ALWAYS = 2**28
"""Bytes that an archive may always unpack to."""
_RATIO = 8
"""Beyond that, how many times its own size; weights hardly compress."""
AGAIN = "it may be cut short; fetch it again"


def check_safetensors(path: Path, head: bytes) -> None:
    """Refuse a safetensors file whose header would end behind the file.

    Raises:
        WeightsError: naming both lengths.
    """
    claimed, size = int.from_bytes(head[:8], "little"), path.stat().st_size
    if claimed > size - 8:
        raise WeightsError(
            f"{path} is a damaged safetensors file: it claims a header of {claimed:,} bytes, "
            f"the whole file has {size:,}",
            hint=AGAIN,
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
