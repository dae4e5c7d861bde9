"""What an archive says of its images, and what the board knows of them, held against what was
measured here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bench.codec import size_of
from bench.contracts.cell import Cell, Who
from bench.errors import RunFolderError, SubmissionError
from bench.plans.stored import StoredBoard
from bench.results.clean import COLUMNS, CleanResult, differing_image
from bench.runs.seal import environment_of
from bench.store.folder import CellFolder, RunFolder
from bench.store.pictures import row_images
from bench.store.sealed import learned_otherwise
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


def check_clean(
    run: RunFolder, folder: CellFolder, boards: Sequence[StoredBoard], cell: Cell
) -> None:
    """The clean images give here what they give in the run's other rows on this target.

    Args:
        run: that the row is handed in to.
        folder: of the new cell.
        boards: of the run; first the one that the row is for.
        cell: that was evaluated here.

    Raises:
        SubmissionError: they do not, or its defense learned otherwise; the row would make the
            target's rows contradict each other.
    """
    here = CleanResult.of(folder.table(COLUMNS), folder.target())
    for board, key in _rows_on(cell.who, boards, random=here.draws > 1):
        part = run.cell(key)
        try:
            sealed = part.sealed()
            if sealed is None or sealed.status != "ok":
                continue
            there = CleanResult.of(part.table(COLUMNS), part.target())
        except (RunFolderError, ValueError):
            continue
        if there.ids != here.ids:
            continue
        if image := differing_image([there, here]):
            where = "the board" if board is boards[0] else f"the board of {board.terms}"
            raise SubmissionError(
                f"{cell.label}: the clean image {image} gives another result here than on {where}, "
                "whatever was handed in",
                hint="accept on the device class and with the versions that the board was made on",
            )
        if learned_otherwise(sealed.environment, environment_of(folder.shards()[0])):
            raise SubmissionError(
                f"{cell.label}: its defense learns otherwise here than in the run, whatever was "
                "handed in",
                hint="accept with the code that the board was made with",
            )
        return


def _rows_on(
    who: Who, boards: Sequence[StoredBoard], *, random: bool
) -> Iterator[tuple[StoredBoard, str]]:
    """(board, key) of the cells on a target whose clean results are those of the first board."""
    own = boards[0]
    for board in boards:
        same = (board.dataset, board.subset, board.protocol.batch)
        if same != (own.dataset, own.subset, own.protocol.batch):
            continue
        if random and board.protocol.seed != own.protocol.seed:
            continue
        for key, cell in board.cells.items():
            if cell.who == who:
                yield board, key
