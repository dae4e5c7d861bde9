"""Whether a picture's data reaches its last pixel: what Pillow fills up silently is refused.

Pillow refuses a file that ends early, but not one whose data does and which then goes on: rows that
a PNG or TIFF lacks become black, and blocks that a JPEG lacks become flat. No library tells, so it
is found here.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from hashlib import shake_128
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from bench.errors import DataError

_ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""Of each pass over an interlaced PNG: its first column and row, and the steps between them."""
_AT_ONCE = 2**16
"""Bytes of a PNG's data that are in memory beside its pixels."""
_BLOCK = 8
"""Pixels on a side of a JPEG's block."""
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""JPEG's markers that a length follows, and the one of the end; not 0xFF as coded data has it."""
_FAX = (2, 3, 4)
"""TIFF's compressions of fax machines."""
_PLACES = ((324, 273), (325, 279))
"""TIFF's tags of where tiles or strips begin, and of how many bytes they have."""
_ANY = shake_128(b"any").digest(64).replace(b"\xff", b"\xfe")
_GUESSES = (_ANY, b"\xaa" * 64, b"\xfe\x10" * 32)
"""Coded data of a JPEG. The first is as good as random: of 11,258 pictures cut short it told all
but 11, which lacked a part of a block. The others are tried where the end is flat."""


def check_png(picture: Image.Image, file: BinaryIO) -> None:
    """Refuse a PNG whose compressed data ends before its last row: Pillow leaves the rows that are
    missing black.

    Args:
        picture: as Pillow decoded it.
        file: from which.

    Raises:
        DataError: it has less data than its head says.
    """
    width, height = picture.size
    last = picture.crop((0, height - 1, width, height))
    if picture.info.get("interlace") or not np.asarray(last).any():
        file.seek(0)
        check_rows(file.read())


def check_rows(source: bytes) -> None:
    """As `check_png`, whatever the pixels look like.

    Args:
        source: what Pillow has decoded, so that the chunks up to its data are whole.
    """
    found, wanted, place, stream = 0, 0, 8, zlib.decompressobj()
    while place + 8 <= len(source):
        length, name = struct.unpack(">I4s", source[place : place + 8])
        begin, end = place + 8, place + 8 + length
        if name == b"IHDR":
            wanted = _unpacked(source[begin:end])
        for start in range(begin, end, _AT_ONCE) if name == b"IDAT" else ():
            data = source[start : min(start + _AT_ONCE, end)]
            while piece := stream.decompress(data, _AT_ONCE):  # counted, not kept
                found, data = found + len(piece), stream.unconsumed_tail
        place = end + 4  # past its checksum
    if found < wanted:
        raise DataError("a PNG with fewer rows than its head says")


def _unpacked(head: bytes) -> int:
    """Bytes of the rows of a PNG before they are compressed; each row begins with its filter."""
    width, height, bits, kind, _, _, interlaced = struct.unpack(">IIBBBBB", head)
    samples = {2: 3, 4: 2, 6: 4}.get(kind, 1)
    found = 0
    for left, top, across, down in _ADAM7 if interlaced else [(0, 0, 1, 1)]:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0 and rows > 0:
            found += rows * (1 + (columns * bits * samples + 7) // 8)
    return found


def check_jpeg(picture: Image.Image, file: BinaryIO) -> None:
    """Refuse a JPEG whose coded data ends before its last block: libjpeg repeats the last color.

    Args:
        picture: as Pillow decoded it.
        file: from which.

    Raises:
        DataError: it has less data than its head says.
    """
    file.seek(0)
    source = file.read(_most(picture))
    if (end := _end(source)) is not None:
        _check_blocks(np.asarray(picture), source, end)


def check_tiff(picture: Image.Image, file: BinaryIO) -> None:
    """Refuse a TIFF that lacks strips or tiles, or whose JPEG data ends early; Pillow leaves black
    what is missing. The other compressions report it, but for those of fax, which are refused.

    Args:
        picture: as Pillow decoded it.
        file: from which.

    Raises:
        DataError: it has less data than its head says, or nobody could tell.
    """
    tags: dict[int, Any] = dict(getattr(picture, "tag_v2", {}))
    width, height = tags[256], tags[257]
    tiled = 323 in tags
    across, down = tags.get(322, width), tags[323] if tiled else min(tags.get(278, height), height)
    rows, planes = -(-height // down), tags.get(277, 1) if tags.get(284, 1) == 2 else 1
    parts = -(-width // across) * rows * planes
    offsets, counts = (tags.get(tile) or tags.get(strip) or () for tile, strip in _PLACES)
    if len(offsets) < parts or not all(counts[:parts]):
        raise DataError("a TIFF with fewer strips or tiles than its head says")
    if tags.get(259) in _FAX:
        raise DataError("a TIFF compressed for fax, whose damage nobody can tell")
    for i in range(parts if tags.get(259) == 7 else 0):
        offset, count = offsets[i], counts[i]
        file.seek(offset)
        strip = file.read(min(count, _most(picture))).removeprefix(b"\xff\xd8")
        whole = bytes(tags.get(347, b"\xff\xd8\xff\xd9")).removesuffix(b"\xff\xd9") + strip
        if (end := _end(whole)) is None:
            raise DataError("a TIFF with a strip or tile of JPEG that does not end")
        pixels = _decoded(whole, _most(picture))
        wanted = down if tiled or (i + 1) % rows else height - (rows - 1) * down
        if planes == 1 and (pixels.shape[0] < wanted or pixels.shape[1] < across):
            raise DataError("a TIFF with a strip or tile that is smaller than its head says")
        _check_blocks(pixels, whole, end)


def _most(picture: Image.Image) -> int:
    """Bytes that a picture's data may need, however badly it is compressed, or padded to tiles."""
    width, height = picture.size
    return 8 * width * height + 2**24


def _check_blocks(pixels: np.ndarray[Any, Any], source: bytes, end: int) -> None:
    """Refuse a JPEG whose pixels change when further data is put behind what is there: a decoder
    that has all blocks skips it, and one that lacks some decodes it.

    Args:
        pixels: that it was decoded to.
        end: place of its end mark.
    """
    most = max(4 * pixels.size, 4)
    for guess in _GUESSES if _ends_flat(pixels) else _GUESSES[:1]:
        restarts = b"".join(b"\xff" + bytes([0xD0 + i % 8]) + guess for i in range(16))
        longer = source[:end] + guess + restarts + source[end:]
        if not np.array_equal(pixels, _decoded(longer, most)):
            raise DataError("a JPEG with fewer blocks than its head says")


def _decoded(source: bytes, most: int) -> np.ndarray[Any, Any]:
    picture = Image.open(io.BytesIO(source), formats=["JPEG", "MPO"])
    if 4 * picture.width * picture.height > most:
        raise DataError("a strip or tile of JPEG that is larger than the picture")
    return np.asarray(picture)


def _end(source: bytes) -> int | None:
    """Place of the end mark of the first picture of a JPEG file; None where it has none."""
    found = _MARKER.search(source, 2)
    while found and found[0] != b"\xff\xd9":
        length = source[found.end() : found.end() + 2]
        found = _MARKER.search(source, found.end() + int.from_bytes(length))
    return found.start() if found else None


def _ends_flat(pixels: np.ndarray[Any, Any]) -> bool:
    """Whether the last pixels of a JPEG are of one color, as those of a block that is filled up.

    Colors are blended over two pixels at the edges of a block, so that a block with fewer than four
    may be filled up however it looks.
    """
    height, width = pixels.shape[:2]
    corner = pixels[-2:, -2:].reshape(-1, *pixels.shape[2:])
    few = min((width - 1) % _BLOCK, (height - 1) % _BLOCK) < 3
    return few or bool((corner == corner[0]).all())
