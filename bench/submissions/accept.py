"""Judging what was handed in, and adding it to a board.

Every image is evaluated here, by the board's own targets, in the batch places of its protocol; of
some, as many as the protocol audits, ptflops counts what `execute` does. What an archive says of
its images is compared with that, and never copied. No code of whoever hands in is run. Everything
is judged before the first byte is written into the board's folder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.contracts.cell import Cell, defended_name
from bench.contracts.threat import parse_threat
from bench.errors import DataError, PlanError, SubmissionError
from bench.evaluation.prepare import open_cell
from bench.evaluation.shard import run_shard
from bench.files.remove import remove
from bench.files.writing import COPY
from bench.plans.stored import StoredBoard, StoredPlan, read_plan
from bench.runs.seal import seal
from bench.store.documents import write_json
from bench.store.folder import PLAN, CellFolder, RunFolder
from bench.store.submission import Submission
from bench.submissions.archive import Archive
from bench.submissions.claims import check_clean, differences
from bench.submissions.document import (
    SubmissionDocument,
    read_submission_document,
)
from bench.submissions.given import Given, component
from bench.submissions.rows import BoardImages, JudgedRow, read_row
from bench.terminal import counted

SHARD = 64
"""Images that are judged at a time, rounded to whole batches."""
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
            images = BoardImages.of(board, self.root)
            if document.board.subset not in ("", board.subset):
                raise SubmissionError("its images are made from another data set than the board's")
            judged = [read_row(archive, row, board, images) for row in document.rows]
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
        plan = replace(plan, digest=plan.content_digest())
        write_json(self.run.path / PLAN, plan.document(), elsewhere=COPY)

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
        row: JudgedRow,
        images: BoardImages,
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
        try:
            replace(board, cells={**self.boards[number], key: cell}).check_told_apart()
        except ValueError as error:
            raise SubmissionError(
                f"the board would have {cell.attack.label!r}: {error}",
                hint="rows[].attack is what it is to be called",
            ) from error
        self.tell(f"{cell.label}: judging {counted(len(images.ids), 'image')}")
        folder = self.folder.cell(key, create=True)
        self._evaluate(folder, cell, row, images, board.fit_subset)
        self.remarks += differences(folder, cell, row)
        others = [one for place, one in enumerate(self.plan.boards) if place != number]
        check_clean(self.run, folder, [board, *others], cell)
        seal(folder, cell, "ok", ids=images.ids)
        note.write(folder.path)
        self.boards[number][key] = cell
        self.fresh.append(key)
        self.added.append(cell.label)

    def _evaluate(
        self,
        folder: CellFolder,
        cell: Cell,
        row: JudgedRow,
        images: BoardImages,
        fit_subset: str,
    ) -> None:
        saved = dict(zip(images.ids, row.saved, strict=True))
        opened = open_cell(cell, self.device, self.root, Given(saved=saved), fit_subset)
        step = max(SHARD // cell.protocol.batch, 1) * cell.protocol.batch
        for first in range(0, len(images.ids), step):
            last = min(first + step, len(images.ids)) - 1
            run_shard(opened, folder, first, last, lambda done, total, share: None)


def _cells(board: StoredBoard, judged: Sequence[JudgedRow]) -> Iterator[Cell]:
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
