"""The saved images of another cell, found by its key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import RunFolderError
from bench.files.canonical import canonical
from bench.store.folder import CellFolder
from bench.store.pictures import row_images

if TYPE_CHECKING:
    from torch import Tensor

_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class SavedImages:
    """The saved images of a cell.

    Attributes:
        pictures: id -> PNG bytes.
        sha256: of the cell's sealed shards together.
        folder: of the cell.
    """

    pictures: Mapping[str, bytes]
    sha256: str
    folder: CellFolder

    def images(self, ids: Sequence[str], size: tuple[int, int]) -> Tensor:
        """Some of them, decoded.

        Args:
            ids: which.
            size: (width, height) that they must have.

        Returns:
            (N, C, H, W) uint8.

        Raises:
            RunFolderError: one is not there, damaged, or of another size.
        """
        if missing := [name for name in ids if name not in self.pictures]:
            raise RunFolderError(f"{self.folder.path} has no image {missing[0]}")
        rows = [{"id": name, "adversarial": {"bytes": self.pictures[name]}} for name in ids]
        return row_images(self.folder, rows, "adversarial", size)


def saved_images(folder: CellFolder, key: str) -> SavedImages:
    """The saved images of a finished cell, from the run of `folder` or from a run beside it.

    Args:
        folder: of a cell of the run.
        key: of the other cell, or its first eight or more digits.

    Raises:
        RunFolderError: there is none, or it was altered after it was sealed.
    """
    found = cell_of_key(folder, key)
    sealed = found.sealed() if found is not None else None
    if found is None or sealed is None:
        raise RunFolderError(
            f"no finished cell has the key {key[:80]}, in this run or in one beside it",
            hint="'gatebench run' makes it, 'gatebench accept' takes it in",
        )
    table, wrong = found.sealed_table(sealed.shards, ["id", "adversarial"])
    if wrong:
        raise RunFolderError(f"{found.path}: {wrong[0]} was changed after it was sealed")
    pictures = {row["id"]: row["adversarial"]["bytes"] for row in table.to_pylist()}
    sha256 = hashlib.sha256(canonical(dict(sealed.shards))).hexdigest()
    return SavedImages(pictures, sha256, found)


def cell_of_key(folder: CellFolder, key: str) -> CellFolder | None:
    """A finished cell by its key; None where there is none.

    Args:
        folder: of a cell of the run that is looked at first, before those beside it.
        key: of the other cell, or its first eight or more digits.

    Raises:
        RunFolderError: its cell.json is damaged.
    """
    if not _KEY.fullmatch(key):
        return None
    for found in _cells(folder, key):
        sealed = found.sealed()
        if sealed is not None and sealed.status == "ok":
            return found
    return None


def _cells(folder: CellFolder, key: str) -> Iterator[CellFolder]:
    """Cells whose key begins so: those of the run first."""
    own = folder.path.parent
    for path in sorted(own.glob(f"{key}*")):
        if path != folder.path:
            yield CellFolder(path)
    for path in sorted(own.parent.parent.glob(f"*/cells/{key}*")):
        if path.parent != own:
            yield CellFolder(path)
