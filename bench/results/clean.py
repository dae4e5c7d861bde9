"""Clean results are the target's alone: they are the same in all of its cells, on every board."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bench.results import stats
from bench.store.schema import packed_bits
from bench.store.target import TargetDescription

COLUMNS = ("id", "clean_macs", "clean_prediction", "clean_decisions", "near_threshold")
"""The columns of a row that a clean result is made of."""


@dataclass(frozen=True)
class CleanResult:
    """What a cell says of the clean images.

    Attributes:
        ids: of the n images.
        macs: (n,) int64, that each executes; of a random target the mean over its draws.
        predictions: (n,) int64, classes.
        decisions: (n, ceil(U / 8)) uint8, packed bits, whether each unit ran.
        near: (n,) int64, margins of the clean and of the adversarial image that lie within the
            target's float noise of their thresholds: at least as many as of the clean one alone.
        owners: (U,) of each unit.
        draws: over how many the target is scored.
    """

    ids: tuple[str, ...]
    macs: stats.Array
    predictions: stats.Array
    decisions: stats.Array
    near: stats.Array
    owners: tuple[str, ...]
    draws: int

    @classmethod
    def of(cls, table: pa.Table, target: TargetDescription) -> CleanResult:
        """From a cell's rows.

        Args:
            table: its columns, `COLUMNS` among them.
            target: as target.json describes it.

        Raises:
            ValueError: its decisions are not of the target's units.
        """
        return cls(
            ids=tuple(table["id"].to_pylist()),
            macs=table["clean_macs"].to_numpy(),
            predictions=table["clean_prediction"].to_numpy(),
            decisions=packed_bits(table["clean_decisions"].to_pylist(), len(target.units)),
            near=table["near_threshold"].to_numpy(),
            owners=target.units.owner,
            draws=target.draws,
        )


def differing_image(cells: Sequence[CleanResult]) -> str | None:
    """An image whose clean result differs between cells of one target.

    Cells evaluate copies of one target, so a difference means that it keeps state where copies
    share it, or that rows were changed. It is excused where float noise explains it: where every
    cell has a margin at its threshold on that image, and no more units than those differ in the
    first owner in which the decisions differ; later ones depend on it.

    Args:
        cells: of one target, images in one order; of a random target under one seed.

    Returns:
        The id of the first such image; None where all agree.

    Example:
        >>> import numpy as np
        >>> def cell(*decided, near=0):
        ...     units = np.array(decided, dtype=np.uint8)[:, None] << 6
        ...     macs, near, same = np.array(decided) * 5, np.array([0, near]), np.array([1, 2])
        ...     return CleanResult(("a", "b"), macs, same, units, near, ("u", "v"), 1)
        >>> differing_image([cell(1, 2), cell(1, 2)]) is None
        True
        >>> differing_image([cell(1, 2), cell(1, 3, near=1)])
        'b'
        >>> differing_image([cell(1, 2, near=1), cell(1, 3, near=1)]) is None
        True
    """
    near = np.min([cell.near for cell in cells], axis=0)
    first = cells[0]
    for other in cells[1:]:
        if first.owners != other.owners:
            return first.ids[0]
        differs = (
            (first.macs != other.macs)
            | (first.predictions != other.predictions)
            | (first.decisions != other.decisions).any(1)
        )
        for place in differs.nonzero()[0].tolist():
            if not _is_noise(first, other, place, int(near[place])):
                return str(first.ids[place])
    return None


def _is_noise(first: CleanResult, other: CleanResult, place: int, near: int) -> bool:
    """Whether `near` margins at their thresholds explain that the image differs between cells."""
    if not near:
        return False
    units = np.unpackbits(first.decisions[place] ^ other.decisions[place], count=len(first.owners))
    decided = units.nonzero()[0]
    if not len(decided):  # of a random target, draws whose decisions are not stored may differ
        same = first.predictions[place] == other.predictions[place]
        return first.draws > 1 and bool(same)
    owners = [first.owners[unit] for unit in decided]
    return owners.count(owners[0]) <= near
