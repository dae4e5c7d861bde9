"""Small encoded pictures of known classes, decoded from parquet files or from a folder for each class."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts.dataset import Array
from bench.errors import DataError, did_you_mean

IMAGE_COLUMNS = ("image", "img")
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp")


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures: pixels (N, H, W, 3) uint8, labels (N,) int64, and whether any of them was a JPEG."""

    pixels: Array
    labels: Array
    jpeg: bool


def parquet_files(root: Path, split: str, folders: Iterable[str]) -> list[Path]:
    """The files of a split ("test.parquet", "test-00000-of-00001.parquet") in the first of `folders` under `root` that has any."""
    for folder in folders:
        files = sorted(path for path in (root / folder).glob(f"{split}*.parquet") if path.is_file())
        if files:
            return files
    return []


def from_parquet(
    files: Sequence[Path],
    name: str,
    classes: Sequence[str],
    label_columns: Sequence[str],
    side: int,
) -> Pictures:
    """Decode parquet files with a column of {bytes, path} and one of integer labels.

    Args:
        files: in order. name: of the data set, for messages. classes: in label order.
        label_columns: the first that is there holds the labels. side: height and width every picture must have.

    Raises:
        DataError: naming file and row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    decoder = _Decoder(name, side)
    labels: list[Array] = []
    for file in files:
        try:
            table = pq.read_table(file)
        except (pa.ArrowException, OSError) as error:
            reason = str(error).strip().splitlines()[0]
            raise DataError(
                f"{name}: {file} cannot be read as parquet: {reason}",
                hint="it may be cut short; fetch it again",
            ) from error
        image = _column(table.column_names, IMAGE_COLUMNS, file, name, "pictures")
        label = _column(table.column_names, label_columns, file, name, "labels")
        if not table.num_rows:
            continue
        _check_class_names(table.schema, label, classes, file, name)
        labels.append(_labels(table.column(label), len(classes), file, name))
        for row, cell in enumerate(table.column(image).to_pylist()):
            decoder.add(cell.get("bytes") if isinstance(cell, dict) else cell, f"{file}, row {row}")
    if not decoder.pixels:
        raise DataError(f"{name}: no picture in {', '.join(str(file) for file in files)}")
    return Pictures(np.stack(decoder.pixels), np.concatenate(labels), decoder.jpeg)


def from_folders(root: Path, name: str, classes: Sequence[str], side: int) -> Pictures:
    """Decode `root/CLASS/*.png`, classes and files in alphabetical order.

    Raises:
        DataError: naming the file.
    """
    decoder = _Decoder(name, side)
    labels: list[int] = []
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        if folder.name not in classes:
            raise DataError(
                f"{name}: {folder} is no class of {name}{did_you_mean(folder.name, classes)}"
            )
        for file in sorted(path for path in folder.iterdir() if path.suffix.lower() in EXTENSIONS):
            decoder.add(file.read_bytes(), str(file))
            labels.append(classes.index(folder.name))
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
        from PIL import Image

        if not isinstance(data, bytes) or not data:
            raise DataError(f"{self.name}: {place}: no picture bytes")
        try:
            with Image.open(io.BytesIO(data)) as picture:
                size, form = picture.size, picture.format
                if size == (self.side, self.side):
                    self.pixels.append(np.asarray(picture.convert("RGB")))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(
                f"{self.name}: {place}: not a picture that can be read ({error})"
            ) from error
        if size != (self.side, self.side):
            raise DataError(
                f"{self.name}: {place}: {size[0]}x{size[1]} pixels, expected {self.side}x{self.side}"
            )
        self.jpeg = self.jpeg or form == "JPEG"


def _column(there: Sequence[str], wanted: Sequence[str], file: Path, name: str, what: str) -> str:
    for column in wanted:
        if column in there:
            return column
    expected = " or ".join(repr(column) for column in wanted)
    raise DataError(
        f"{name}: {file} has no column of {what}: expected {expected}, found {', '.join(there) or 'none'}"
    )


def _labels(column: Any, count: int, file: Path, name: str) -> Array:
    """The label column as int64, every one of them in 0 … count-1."""
    import pyarrow as pa

    if not pa.types.is_integer(column.type):
        raise DataError(f"{name}: {file}: labels are {column.type}, expected integers")
    values = column.to_pylist()
    for row, value in enumerate(values):
        if value is None or not 0 <= value < count:
            raise DataError(f"{name}: {file}, row {row}: label {value}, expected 0 to {count - 1}")
    return np.array(values, dtype=np.int64)


def _check_class_names(
    schema: Any, label: str, classes: Sequence[str], file: Path, name: str
) -> None:
    """Where the file says what its labels mean, it must be what we mean by them."""
    said = _class_names(schema.metadata or {}, label)
    if said and tuple(said) != tuple(classes):
        raise DataError(
            f"{name}: {file} numbers its classes differently: {', '.join(said[:10])}{', …' if len(said) > 10 else ''}"
        )


def _class_names(metadata: dict[bytes, bytes], label: str) -> list[str]:
    """Class names from the schema: a plain `class_names` list, or the features that dataset hubs write; [] if it is silent."""
    if b"class_names" in metadata:
        return metadata[b"class_names"].decode("utf-8", "replace").split(",")
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(one) for one in names] if isinstance(names, list) else []
