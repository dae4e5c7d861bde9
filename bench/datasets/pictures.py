"""Small encoded pictures of known classes, from parquet files or from a folder for each class."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts.dataset import Array
from bench.datasets.files import (
    check_leads_somewhere,
    check_one_owner,
    folders_in,
    printable,
    split_shards,
    walk_pictures,
)
from bench.errors import DataError, did_you_mean

IMAGE_COLUMNS = ("image", "img")
FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")
MAX_ENCODED = 2**20
"""The most bytes that one small encoded picture may have."""
_ENCODED_MEAN = 2**16
"""The most bytes of a picture on average over a file; 16 times what 32x32 RGBA needs."""
_ROWS = 256
"""Rows of a parquet file that are decoded at a time."""


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures.

    Attributes:
        pixels: (N, H, W, 3) uint8.
        labels: (N,) int64.
        jpeg: whether any of them was a JPEG.
    """

    pixels: Array
    labels: Array
    jpeg: bool


def parquet_files(root: Path, split: str, folders: Iterable[str], name: str) -> list[Path]:
    """The files of a split in the first of `folders` under `root` that has any.

    Raises:
        DataError: as `bench.datasets.files.split_shards`.
    """
    for folder in folders:
        files = split_shards(root / folder, split, name)
        if files:
            return files
    return []


def from_parquet(
    files: Sequence[Path],
    name: str,
    classes: Sequence[str],
    label_columns: Sequence[str],
    side: int,
    most: int,
) -> Pictures:
    """Decode parquet files with a column of {bytes, path} and one of integer labels.

    Args:
        files: in order.
        name: of the data set, for messages.
        classes: in label order.
        label_columns: the first that is there holds the labels.
        side: height and width that every picture must have.
        most: images that the split has at most.

    Raises:
        DataError: naming file and row.
    """
    import pyarrow as pa

    decoder = _Decoder(name, side)
    labels: list[Array] = []
    for file in files:
        try:
            count = 0
            for part, image, label in _parts(file, name, classes, label_columns, most):
                labels.append(_labels(part.column(label), len(classes), file, name, count))
                for row, cell in enumerate(part.column(image).to_pylist(), start=count):
                    data = cell.get("bytes") if isinstance(cell, dict) else cell
                    decoder.add(data, f"{file}, row {row}")
                count += part.num_rows
        except (pa.ArrowException, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{name}: {file} cannot be read as parquet: {reason}",
                hint="it may be cut short; fetch it again",
            ) from error
        if len(decoder.pixels) > most:
            raise DataError(f"{name}: more than the {most} images that the split has")
    if not decoder.pixels:
        raise DataError(f"{name}: no picture in {', '.join(str(file) for file in files)}")
    return Pictures(np.stack(decoder.pixels), np.concatenate(labels), decoder.jpeg)


def from_folders(root: Path, name: str, classes: Sequence[str], side: int) -> Pictures:
    """Decode `root/CLASS/*.png`, classes and files in text order; junk is skipped.

    Raises:
        DataError: naming the file.
    """
    decoder = _Decoder(name, side)
    labels: list[int] = []
    owners: dict[tuple[int, int], str] = {}
    found: dict[str, list[str]] = {}
    check_leads_somewhere(root, name)
    for folder in folders_in(root):
        walked: set[tuple[int, int]] = set()
        found[folder] = list(walk_pictures(root / folder, EXTENSIONS, walked))
        check_one_owner(owners, walked, folder, name)
    strangers = [folder for folder in found if folder not in classes]
    for folder, files in found.items():
        if folder in strangers and (files or not any(found.values())):
            raise DataError(
                f"{name}: {root / printable(folder)} is no class of {name}"
                f"{did_you_mean(folder, classes)}"
            )
        for file in files:
            decoder.add(root / folder / file, f"{root / folder}/{printable(file)}")
            labels.append(classes.index(folder))
    if not labels:
        raise DataError(
            f"{name}: no picture under {root}", hint=f"expected {root}/{classes[0]}/*.png and so on"
        )
    return Pictures(np.stack(decoder.pixels), np.array(labels, dtype=np.int64), decoder.jpeg)


class _Decoder:
    """Collects decoded pictures of one size."""

    def __init__(self, name: str, side: int) -> None:
        self.name, self.side = name, side
        self.pixels: list[Array] = []
        self.jpeg = False

    def add(self, data: object, place: str) -> None:
        """Decode one picture, from bytes or a file.

        Raises:
            DataError: naming the place.
        """
        from bench.codec import as_rgb, read_picture

        if not isinstance(data, (bytes, Path)) or not data:
            raise DataError(f"{self.name}: {place}: no picture bytes")
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        if size > MAX_ENCODED:
            raise DataError(
                f"{self.name}: {place}: {size} bytes, too many for {self.side}x{self.side} pixels"
            )
        try:
            picture = read_picture(data, FORMATS, (self.side, self.side))
            self.pixels.append(np.asarray(as_rgb(picture)))
        except DataError as error:
            raise DataError(f"{self.name}: {place}: {error.message}", hint=error.hint) from error
        self.jpeg = self.jpeg or picture.format in ("JPEG", "MPO")


def _parts(
    file: Path,
    name: str,
    classes: Sequence[str],
    label_columns: Sequence[str],
    most: int,
) -> Iterator[tuple[Any, str, str]]:
    """(some rows, the column of pictures, that of labels) of a parquet file, part after part."""
    import pyarrow.parquet as pq

    with open(file, "rb") as source, pq.ParquetFile(source) as opened:  # its path is any bytes
        names = opened.schema_arrow.names
        image = _column(names, IMAGE_COLUMNS, file, name, "pictures")
        label = _column(names, label_columns, file, name, "labels")
        rows = opened.metadata.num_rows
        if rows > most:
            raise DataError(f"{name}: {file} holds {rows} images, the split has {most}")
        if rows:
            _check_class_names(opened.schema_arrow.metadata or {}, label, classes, file, name)
        claimed = sum(
            opened.metadata.row_group(group).total_byte_size
            for group in range(opened.metadata.num_row_groups)
        )
        if claimed > MAX_ENCODED + rows * _ENCODED_MEAN:
            raise DataError(f"{name}: {file} claims {claimed:,} bytes for {rows} small pictures")
        for part in opened.iter_batches(batch_size=_ROWS, columns=[image, label]):
            yield part, image, label


def _column(there: Sequence[str], wanted: Sequence[str], file: Path, name: str, what: str) -> str:
    for column in wanted:
        if there.count(column) > 1:
            raise DataError(
                f"{name}: {file} has the column {column!r} of {what} more than once",
                hint="write it again with one of them",
            )
        if column in there:
            return column
    expected = " or ".join(repr(column) for column in wanted)
    raise DataError(
        f"{name}: {file} has no column of {what}: expected {expected}, "
        f"found {', '.join(there) or 'none'}"
    )


def _labels(column: Any, count: int, file: Path, name: str, first: int) -> Array:
    """The labels of some rows, from row `first` of the file, as int64 in 0 ... count-1."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise DataError(f"{name}: {file}: labels are {column.type}, expected integers")
    values = column.to_pylist()
    for row, value in enumerate(values, start=first):
        if value is None or not 0 <= value < count:
            raise DataError(f"{name}: {file}, row {row}: label {value}, expected 0 to {count - 1}")
    return np.array(values, dtype=np.int64)


def _check_class_names(
    metadata: Mapping[bytes, bytes],
    label: str,
    classes: Sequence[str],
    file: Path,
    name: str,
) -> None:
    """Where the file says what its labels mean, it must be what we mean by them."""
    said = _class_names(metadata, label)
    if said and tuple(said) != tuple(classes):
        shown = ", ".join(said[:10]) + (", …" if len(said) > 10 else "")
        raise DataError(f"{name}: {file} numbers its classes differently: {shown}")


def _class_names(metadata: Mapping[bytes, bytes], label: str) -> list[str]:
    """Class names from the schema (`class_names`, or the features of a hub); [] if it is silent."""
    if b"class_names" in metadata:
        return metadata[b"class_names"].decode("utf-8", "replace").split(",")
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return []
    return [str(one) for one in names] if isinstance(names, list) else []
