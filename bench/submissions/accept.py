"""Judging what was handed in, and adding it to a board.

Every image is evaluated here, by the board's own targets, in the batch places of its protocol; of
some, as many as the protocol audits, ptflops counts what `execute` does. What an archive says of
its images is compared with that, and never copied. No code of whoever hands in is run. Everything
is judged before the first byte is written into the board's folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from bench.codec import decoded, read_picture
from bench.contracts.cell import Cell, cell_label, defended_name
from bench.contracts.dataset import Dataset
from bench.contracts.threat import parse_threat
from bench.datasets.base import subset, subset_digest
from bench.errors import DataError, PlanError, RunFolderError, SubmissionError, did_you_mean
from bench.evaluation.build import opened_dataset
from bench.evaluation.prepare import open_cell
from bench.evaluation.shard import run_shard
from bench.files.remove import remove
from bench.image import difference, inside
from bench.plans.stored import StoredBoard, StoredPlan, read_plan
from bench.runs.seal import seal
from bench.store.documents import write_json
from bench.store.folder import PLAN, CellFolder, RunFolder
from bench.store.submission import Submission
from bench.submissions.archive import Archive
from bench.submissions.document import (
    GivenImage,
    GivenRow,
    SubmissionDocument,
    read_submission_document,
)
from bench.submissions.given import Given, component

SHARD = 64
"""Images that are judged at a time, rounded to whole batches."""
_CLAIMS = (
    "label",
    "clean_prediction",
    "adversarial_prediction",
    "clean_macs",
    "adversarial_macs",
    "linf",
    "squared",
)
_EXACT = ("label", "linf", "squared")
"""Claims that no float noise can excuse."""
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_PNG_RGB8 = b"\x08\x02"
"""Bit depth and color type of 8-bit RGB, at bytes 24 and 25."""

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Accepted:
    """What became of the rows that were handed in.

    Attributes:
        added: labels of the cells that joined the board.
        there: labels of those that the board has already.
        remarks: claims that differ where float noise may decide.
    """

    added: tuple[str, ...]
    there: tuple[str, ...]
    remarks: tuple[str, ...]


def accept(
    archives: Sequence[Path],
    run: RunFolder,
    *,
    data_root: str | None = None,
    device: str = "cpu",
    tell: Tell = lambda line: None,
) -> Accepted:
    """Judge archives and add their rows to a run; all of them, or none.

    Args:
        archives: that were handed in.
        run: whose board they join.
        data_root: where the data set lies.
        device: where to evaluate; that of the board's other rows.
        tell: hears of each row.

    Raises:
        SubmissionError: one of them cannot be accepted; nothing was written.
        RunFolderError: the run is damaged, or in use.
    """
    with (
        run.locked(),
        tempfile.TemporaryDirectory(
            prefix=".accept-", dir=run.path, ignore_cleanup_errors=True
        ) as staging,
    ):
        plan = read_plan(run)
        stage = _Stage(run, plan, RunFolder(Path(staging)), data_root, torch.device(device), tell)
        for path in archives:
            with Archive(path) as archive:
                stage.add(archive)
        stage.commit()
        return Accepted(tuple(stage.added), tuple(stage.there), tuple(stage.remarks))


class _Stage:
    """Rows that were judged and are not yet part of the run."""

    def __init__(
        self,
        run: RunFolder,
        plan: StoredPlan,
        folder: RunFolder,
        data_root: str | None,
        device: torch.device,
        tell: Tell,
    ) -> None:
        self.run, self.folder, self.root, self.device, self.tell = (
            run,
            folder,
            data_root,
            device,
            tell,
        )
        self.plan = plan
        self.boards = [dict(board.cells) for board in plan.boards]
        self.fresh: list[str] = []
        self.added: list[str] = []
        self.there: list[str] = []
        self.remarks: list[str] = []

    def add(self, archive: Archive) -> None:
        """Judge one archive.

        Raises:
            SubmissionError: it cannot be accepted.
        """
        document = read_submission_document(archive)
        try:
            number = self._board_of(document)
            board = replace(self.plan.boards[number], cells=self.boards[number])
            images = _BoardImages.of(board, self.root)
            if document.board.subset not in ("", board.subset):
                raise SubmissionError("its images are made from another data set than the board's")
            judged = [_judged_row(archive, row, board, images) for row in document.rows]
            note = Submission(
                document.who,
                document.what,
                document.license,
                document.paper,
                document.code,
                archive.sha256,
            )
            for cell, saved in zip(_cells(board, judged), judged, strict=True):
                self._judge(number, board, cell, saved, images, note)
        except SubmissionError as error:
            if str(archive.path) in error.message:
                raise
            raise SubmissionError(f"{archive.path}: {error.message}", hint=error.hint) from error
        except (PlanError, DataError) as error:
            raise SubmissionError(f"{archive.path}: {error.message}", hint=error.hint) from error

    def commit(self) -> None:
        """Move the rows into the run, then name them in its plan."""
        if not self.fresh:
            return
        for key in self.fresh:
            place = self.run.cell(key).path
            remove(place)  # of a command that was killed before it wrote the plan
            os.replace(self.folder.cell(key).path, place)
        boards = tuple(
            replace(board, cells=cells)
            for board, cells in zip(self.plan.boards, self.boards, strict=True)
        )
        plan = replace(self.plan, boards=boards)
        write_json(self.run.path / PLAN, replace(plan, digest=plan.content_digest()).document())

    def _board_of(self, document: SubmissionDocument) -> int:
        """The board that the images are meant for."""
        said = document.board
        threat = parse_threat(said.threat, "board.threat")
        found = [
            number
            for number, board in enumerate(self.plan.boards)
            if said.dataset in (board.dataset, board.protocol.dataset)
            and board.protocol.threat == threat
            and said.budget in (None, board.protocol.budget)
            and said.seed in (None, board.protocol.seed)
        ]
        if len(found) != 1:
            there = "; ".join(
                f"{board.dataset}, {board.protocol.terms}" for board in self.plan.boards
            )
            what = "several boards" if found else "no board"
            raise SubmissionError(
                f"{self.run.path} has {what} of {said.dataset[:120]} under {threat} (it has: "
                f"{there})"
            )
        return found[0]

    def _judge(
        self,
        number: int,
        board: StoredBoard,
        cell: Cell,
        row: _JudgedRow,
        images: _BoardImages,
        note: Submission,
    ) -> None:
        key = board.key(cell)
        if key in self.boards[number]:
            self.there.append(cell.label)
            return
        taken = [one for one in self.boards[number].values() if one.labels == cell.labels]
        same = [
            one
            for one in self.boards[number].values()
            if one.attack.label == cell.attack.label
            and one.attack.identity() != cell.attack.identity()
        ]
        if taken or same:
            raise SubmissionError(
                f"the board has another attack that is called {cell.attack.label!r}",
                hint="rows[].attack is what it is to be called",
            )
        self.tell(f"{cell.label}: judging {len(images.ids)} images")
        folder = self.folder.cell(key, create=True)
        self._evaluate(folder, cell, row, images)
        self.remarks += _held_against(folder, cell, row)
        _check_clean(self.run, folder, board, cell)
        seal(folder, cell, "ok", ids=images.ids)
        note.write(folder.path)
        self.boards[number][key] = cell
        self.fresh.append(key)
        self.added.append(cell.label)

    def _evaluate(
        self, folder: CellFolder, cell: Cell, row: _JudgedRow, images: _BoardImages
    ) -> None:
        saved = dict(zip(images.ids, row.saved, strict=True))
        opened = open_cell(cell, self.device, self.root, Given(saved=saved))
        step = max(SHARD // cell.protocol.batch, 1) * cell.protocol.batch
        for first in range(0, len(images.ids), step):
            last = min(first + step, len(images.ids)) - 1
            run_shard(opened, folder, first, last, lambda done, total, share: None)


@dataclass(frozen=True)
class _BoardImages:
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
    def of(cls, board: StoredBoard, root: str | None) -> _BoardImages:
        dataset = opened_dataset(board.protocol.dataset, root)
        chosen = subset(dataset, board.protocol.images)
        if str(dataset) != board.dataset or subset_digest(dataset, chosen) != board.subset:
            raise SubmissionError(f"the data set here is not the board's, {board.dataset}")
        return cls(dataset, tuple(dataset.ids[i] for i in chosen), dataset.images(chosen))


@dataclass(frozen=True)
class _JudgedRow:
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


def _judged_row(
    archive: Archive, row: GivenRow, board: StoredBoard, images: _BoardImages
) -> _JudgedRow:
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
    return _JudgedRow(row, by_id, saved, total.hexdigest())


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


def _cells(board: StoredBoard, judged: Sequence[_JudgedRow]) -> Iterator[Cell]:
    """The cell of each row; all rows of an attack share one component."""
    content: dict[str, dict[str, str]] = {}
    for row in judged:
        who = defended_name(row.given.target, row.given.defense)
        content.setdefault(row.given.attack, {})[who] = row.digest
    whom = {cell.who: cell for cell in board.cells.values()}
    for row in judged:
        given = row.given
        attack = component(given.attack, content[given.attack])
        yield replace(whom[given.target, given.defense], attack=attack, excluded="")


def _held_against(folder: CellFolder, cell: Cell, row: _JudgedRow) -> Iterator[str]:
    """Compare what the archive claims with what was measured here.

    Yields:
        Differences on images with a margin within float noise.

    Raises:
        SubmissionError: a claim is wrong, or an image did not stay as it was.
    """
    table = folder.table([*_CLAIMS, "id", "near_threshold", "adversarial"])
    for found, saved in zip(table.to_pylist(), row.saved, strict=True):
        image = row.by_id[found["id"]]
        if not torch.equal(decoded([found["adversarial"]["bytes"]])[0], saved):
            raise SubmissionError(f"{cell.label}: image {image.id} did not stay as it was")
        for name in _CLAIMS:
            said, made = getattr(image, name), found[name]
            if said is None or said == made:
                continue
            text = f"{cell.label}: image {image.id}: {name} is {said} there, {made} here"
            if name in _EXACT or not found["near_threshold"]:
                raise SubmissionError(text)
            yield f"{text} (a margin lies within float noise)"


def _check_clean(run: RunFolder, folder: CellFolder, board: StoredBoard, cell: Cell) -> None:
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
