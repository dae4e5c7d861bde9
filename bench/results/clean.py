"""Clean results are the target's alone: they are the same in all of its cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.results import stats

COLUMNS = ("id", "clean_macs", "clean_prediction", "near_threshold")
"""What is compared; all of them columns of a row."""


def differing_image(cells: Sequence[Mapping[str, stats.Array]]) -> str | None:
    """An image whose clean result differs between cells of one target.

    Cells evaluate copies of one target, so a difference means that it keeps state where copies
    share it. Images with a margin at its threshold are left out: there float noise decides.

    Args:
        cells: of one target under one protocol, the columns `COLUMNS` of each, images in one order.

    Returns:
        The id of the first such image; None where all agree.

    Example:
        >>> import numpy as np
        >>> def cell(macs):
        ...     same = {"id": np.array(["a", "b"]), "clean_prediction": np.array([1, 2])}
        ...     return {**same, "clean_macs": np.array(macs), "near_threshold": np.array([0, 0])}
        >>> differing_image([cell([5, 7]), cell([5, 7])]) is None
        True
        >>> differing_image([cell([5, 7]), cell([5, 8])])
        'b'
    """
    for other in cells[1:]:
        first = cells[0]
        differs = (first["clean_macs"] != other["clean_macs"]) | (
            first["clean_prediction"] != other["clean_prediction"]
        )
        clear = (first["near_threshold"] == 0) & (other["near_threshold"] == 0)
        found = (differs & clear).nonzero()[0]
        if len(found):
            return str(first["id"][found[0]])
    return None
