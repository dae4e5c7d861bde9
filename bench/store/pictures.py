"""The pictures in the rows of a cell: held against the size that its images have before a pixel is
decoded, and refused with file, image and column.

A shard may come from somebody else, and a few bytes can stand for a picture of any size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DataError, RunFolderError

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from bench.store.folder import CellFolder

PICTURES = ("image", "adversarial")
"""The columns that hold a picture."""

Row = Mapping[str, Any]


def row_images(
    folder: CellFolder, rows: Sequence[Row], column: str, size: tuple[int, int]
) -> Tensor:
    """The images of one column of some rows.

    Args:
        folder: of the cell.
        rows: at least one, with "id" and the column.
        column: "image" or "adversarial".
        size: (width, height) of the cell's images.

    Returns:
        (N, C, H, W) uint8; C is 1 where all pictures are gray.

    Raises:
        RunFolderError: a picture is damaged, of another size, or gray where others are not; names
            the shard, the image and the column.
    """
    import torch

    from bench.codec import decoded  # here, since a board that is only read needs no pictures

    found: list[Tensor] = []
    for row in rows:
        try:
            found.append(decoded([row[column]["bytes"]], size))
            if found[-1].shape != found[0].shape:
                raise DataError("gray and RGB pictures together")
        except DataError as error:
            raise _refused(_file_of(folder, row["id"]), row["id"], column, error) from error
    return torch.cat(found)


def check_pictures(path: Path, batch: pa.RecordBatch, size: tuple[int, int]) -> None:
    """Refuse rows of a shard with a picture of another size; no pixel is decoded.

    Args:
        path: of the shard.
        batch: some of its rows, with "id" where there is one of `PICTURES`.
        size: (width, height) of the cell's images.

    Raises:
        RunFolderError: a picture is none, or of another size; names the shard, the image and the
            column.
    """
    columns = [name for name in PICTURES if name in batch.schema.names]
    if not columns:
        return
    from bench.codec import SAVED_FORMATS, check_picture

    for column in columns:
        found = batch.column(column).field("bytes").to_pylist()
        for row, data in enumerate(found):
            try:
                check_picture(data, SAVED_FORMATS, size)
            except DataError as error:
                raise _refused(path, batch.column("id")[row].as_py(), column, error) from error


def _refused(path: Path, name: str, column: str, error: DataError) -> RunFolderError:
    return RunFolderError(
        f"{path}: image {name}: its picture in column {column!r} cannot be read: {error.message}",
        hint="'gatebench verify' examines the whole run; 'gatebench run' with --fresh makes it "
        "again",
    )


def _file_of(folder: CellFolder, name: str) -> Path:
    """The shard that holds an image; the folder where it cannot be told."""
    for shard in folder.shards():
        try:
            ids = folder.shard_column(shard, "id")
        except RunFolderError:
            continue
        if name in ids:
            return shard.path
    return folder.path
