"""The saved images of another cell, found by its key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bench.errors import RunFolderError
from bench.files.canonical import canonical
from bench.store.folder import CellFolder

_KEY = re.compile(r"[0-9a-f]{8,64}")


@dataclass(frozen=True)
class SavedImages:
    """The saved images of a cell.

    Attributes:
        pictures: id -> PNG bytes.
        sha256: of the cell's sealed shards together.
    """

    pictures: Mapping[str, bytes]
    sha256: str


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
    return SavedImages(pictures, hashlib.sha256(canonical(dict(sealed.shards))).hexdigest())


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
