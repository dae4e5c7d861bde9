"""The rows of an archive: their pictures read, held against data set, weights and threat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor

from bench.codec import read_picture
from bench.contracts.cell import cell_label, defended_name
from bench.contracts.dataset import Dataset
from bench.datasets.base import subset, subset_digest
from bench.errors import DataError, SubmissionError, did_you_mean
from bench.evaluation.build import opened_dataset
from bench.image import difference, inside
from bench.plans.stored import StoredBoard
from bench.submissions.archive import Archive
from bench.submissions.document import GivenImage, GivenRow

_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_RGB8 = b"\x08\x02"
"""Bit depth and color type of 8-bit RGB, at bytes 24 and 25."""


@dataclass(frozen=True)
class BoardImages:
    """The clean images of a board.

    Attributes:
        dataset: of the board.
        ids: in order.
        clean: (N, C, H, W) uint8.
    """

    dataset: Dataset
    ids: tuple[str, ...]
    clean: Tensor

    @classmethod
    def of(cls, board: StoredBoard, root: str | None) -> BoardImages:
        dataset = opened_dataset(board.protocol.dataset, root)
        chosen = subset(dataset, board.protocol.images)
        if str(dataset) != board.dataset or subset_digest(dataset, chosen) != board.subset:
            raise SubmissionError(f"the data set here is not the board's, {board.dataset}")
        return cls(dataset, tuple(dataset.ids[i] for i in chosen), dataset.images(chosen))


@dataclass(frozen=True)
class JudgedRow:
    """One row whose pictures were read.

    Attributes:
        given: what the archive says of it.
        by_id: what it says of each image.
        saved: (N, C, H, W) uint8, in the board's order.
        digest: of the pixels.
    """

    given: GivenRow
    by_id: Mapping[str, GivenImage]
    saved: Tensor
    digest: str


def read_row(archive: Archive, row: GivenRow, board: StoredBoard, images: BoardImages) -> JudgedRow:
    """Read the pictures of a row, and hold them against data set and threat."""
    where = cell_label(row.target, row.defense, row.attack)[:300]
    whom = {cell.who: cell for cell in board.cells.values()}
    if (row.target, row.defense) not in whom:
        wanted = defended_name(row.target, row.defense)
        known = [defended_name(*who) for who in whom]
        near = did_you_mean(wanted, known)
        raise SubmissionError(f"the board has no target {wanted[:120]!r}{near}")
    target = whom[row.target, row.defense].target
    if row.weights != (target.digest or target.weights):
        raise SubmissionError(
            f"{where}: made for other weights ({row.weights[:20]}) than the board's "
            f"({(target.digest or target.weights)[:20]})"
        )
    by_id = {image.id: image for image in row.images}
    if missing := [name for name in images.ids if name not in by_id]:
        raise SubmissionError(f"{where}: there is no image for {missing[0]!r} of {board.dataset}")
    if foreign := set(by_id) - set(images.ids):
        raise SubmissionError(f"{where}: {min(foreign)[:80]!r} is no image of the board")
    saved = torch.stack(
        [_picture(archive, by_id[name], tuple(images.clean.shape[1:])) for name in images.ids]
    )
    fits = inside(difference(saved, images.clean), board.protocol.threat)
    if not bool(fits.all()):
        first = images.ids[int((~fits).nonzero()[0])]
        raise SubmissionError(f"{where}: image {first} lies outside {board.protocol.threat}")
    total = sha256()
    for name, image in zip(images.ids, saved, strict=True):
        total.update(f"{name}\n".encode() + image.numpy().tobytes())
    return JudgedRow(row, by_id, saved, total.hexdigest())


def _picture(archive: Archive, image: GivenImage, shape: tuple[int, ...]) -> Tensor:
    """The pixels of one picture: an 8-bit RGB PNG of the board's size."""
    import numpy as np

    data = archive.read(image.file)
    if sha256(data).hexdigest() != image.sha256:
        raise SubmissionError(f"{image.file} has another sha256 than submission.json says")
    if not data.startswith(_PNG_HEAD) or data[24:26] != _PNG_RGB8:
        raise SubmissionError(f"{image.file} is no PNG of 8-bit RGB without a palette or alpha")
    try:
        picture = read_picture(data, ("PNG",), (shape[2], shape[1]))
    except DataError as error:
        raise SubmissionError(f"{image.file}: {error.message}") from error
    pixels = torch.from_numpy(np.array(picture.convert("RGB")))
    return pixels.permute(2, 0, 1).contiguous()
