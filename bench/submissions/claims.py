"""What an archive says of its images, and what the board knows of them, held against what was
measured here."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from bench.codec import size_of
from bench.contracts.cell import Cell
from bench.errors import RunFolderError, SubmissionError
from bench.plans.stored import StoredBoard
from bench.store.folder import CellFolder, RunFolder
from bench.store.pictures import row_images
from bench.submissions.document import CLAIMS
from bench.submissions.rows import JudgedRow

_EXACT = ("label", "linf", "squared")
"""Claims that no float noise can excuse."""


def differences(folder: CellFolder, cell: Cell, row: JudgedRow) -> Iterator[str]:
    """Compare what the archive claims with what was measured here.

    Yields:
        Differences on images with a margin within float noise.

    Raises:
        SubmissionError: a claim is wrong, or an image did not stay as it was.
    """
    table = folder.table([*CLAIMS, "id", "near_threshold", "adversarial"])
    for found, saved in zip(table.to_pylist(), row.saved, strict=True):
        image = row.by_id[found["id"]]
        (kept,) = row_images(folder, [found], "adversarial", size_of(saved.shape))
        if not torch.equal(kept, saved):
            raise SubmissionError(f"{cell.label}: image {image.id} did not stay as it was")
        for name in CLAIMS:
            said, made = getattr(image, name), found[name]
            if said is None or said == made:
                continue
            text = f"{cell.label}: image {image.id}: {name} is {said} there, {made} here"
            if name in _EXACT or not found["near_threshold"]:
                raise SubmissionError(text)
            yield f"{text} (a margin lies within float noise)"


def check_clean(run: RunFolder, folder: CellFolder, board: StoredBoard, cell: Cell) -> None:
    """The clean images give here what they give in the board's other rows on this target.

    Raises:
        SubmissionError: they do not; the row would make the target's rows contradict each other.
    """
    from bench.results.clean import COLUMNS, differing_image

    for key, other in board.cells.items():
        there = run.cell(key)
        try:
            sealed = there.sealed() if other.who == cell.who else None
            if sealed is None or sealed.status != "ok":
                continue
            tables = [part.table(COLUMNS) for part in (there, folder)]
        except RunFolderError:
            continue
        columns = [{name: table[name].to_numpy() for name in COLUMNS} for table in tables]
        if len({len(one["id"]) for one in columns}) > 1:
            continue
        if image := differing_image(columns):
            raise SubmissionError(
                f"{cell.label}: the clean image {image} gives another result here than on the "
                "board, whatever was handed in",
                hint="accept on the device class and with the versions that the board was made on",
            )
        return
