"""Handing in: the rows of a run as one archive that whoever keeps a board can judge."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contracts.cell import Cell
from bench.errors import PlanError, RunFolderError, SubmissionError
from bench.files.atomic import check_takes_file, write_atomic
from bench.files.remove import remove
from bench.plans.stored import StoredBoard, StoredPlan, read_plan
from bench.results.reading import read_boards
from bench.store.folder import RunFolder
from bench.submissions.archive import Archive
from bench.submissions.document import CLAIMS, DOCUMENT, SCHEMA, read_submission_document

_WHEN = (1980, 1, 1, 0, 0, 0)
"""The time that every file of an archive states, so that the same rows give the same bytes."""


@dataclass(frozen=True)
class Words:
    """What whoever hands in says; see `bench.submissions.document.SubmissionDocument`."""

    who: str
    what: str
    license: str
    paper: str = ""
    code: str = ""


def submit(
    run: RunFolder, out: Path, words: Words, *, only: Sequence[str] = (), board: int = 1
) -> Sequence[Cell]:
    """Write the finished rows of a run as an archive.

    Args:
        run: whose rows.
        out: the archive, a zip file; an older one is replaced.
        words: who hands in, what, under which license.
        only: parts of the labels of the rows; all attacks that are no controls by default.
        board: which of the run's boards, counted from 1.

    Returns:
        The cells that are in it.

    Raises:
        PlanError: no row is called that, or the words cannot be shown.
        RunFolderError: what lies in the folder of a row cannot be believed.
    """
    plan = read_plan(run)
    if not 1 <= board <= len(plan.boards):
        raise PlanError(f"--board {board}: {run.path} has {len(plan.boards)}")
    chosen = plan.boards[board - 1]
    cells = _chosen(run, plan, board - 1, only)
    if not cells:
        raise PlanError(
            f"{run.path} has no finished attack" + (f" called {' or '.join(only)}" if only else "")
        )
    files: dict[str, bytes] = {}
    rows = [_row(run, key, cell, number, files) for number, (key, cell) in enumerate(cells)]
    document = {
        "schema": SCHEMA,
        **vars(words),
        "board": _board(chosen),
        "rows": rows,
        "made": _made(run, plan, [key for key, _ in cells]),
    }
    check_takes_file(out)
    draft = out.with_name(f".{out.name}.draft")
    try:
        write_atomic(draft, _zip({DOCUMENT: _json(document), **files}))
        with Archive(draft) as archive:  # what cannot be read again is not handed in
            read_submission_document(archive)
        os.replace(draft, out)
    except SubmissionError as error:
        raise PlanError(error.message.replace(str(draft), str(out))) from error
    finally:
        remove(draft)
    return tuple(cell for _, cell in cells)


def _chosen(
    run: RunFolder, plan: StoredPlan, board: int, only: Sequence[str]
) -> list[tuple[str, Cell]]:
    """The finished attacks of a board, with their keys; what is asked for must be believed."""
    cells = plan.boards[board].cells
    found = []
    for (key, cell), one in zip(
        cells.items(), read_boards(run, plan, whole=True)[board], strict=True
    ):
        if cell.attack.control or cell.is_handed_in:
            continue
        if only and not any(part in cell.label for part in only):
            continue
        if one.cell.refused:
            raise RunFolderError(
                f"{cell.label!r} cannot be handed in: {one.cell.reason}",
                hint="'gatebench verify' says more; run the same plan again, or leave it out by "
                "--only",
            )
        if one.cell.status == "ok":
            found.append((key, cell))
    return found


def _board(board: StoredBoard) -> dict[str, Any]:
    protocol = board.protocol
    return {
        "dataset": board.dataset,
        "threat": protocol.threat.document(),
        "subset": board.subset,
        "budget": protocol.budget,
        "seed": protocol.seed,
    }


def _row(
    run: RunFolder, key: str, cell: Cell, number: int, files: dict[str, bytes]
) -> dict[str, Any]:
    """One row; its pictures join `files`."""
    folder = run.cell(key)
    images = []
    table = folder.table(["id", "adversarial", *CLAIMS], size=folder.target().picture_size)
    for place, row in enumerate(table.to_pylist()):
        name, data = f"images/{number:03d}/{place:05d}.png", row["adversarial"]["bytes"]
        files[name] = data
        images.append(
            {
                "id": row["id"],
                "file": name,
                "sha256": hashlib.sha256(data).hexdigest(),
                **{column: row[column] for column in CLAIMS},
            }
        )
    return {
        "attack": cell.attack.label,
        "target": cell.target.label,
        "weights": cell.target.digest or cell.target.weights,
        "defense": cell.defense.label if cell.defense else "",
        "images": images,
    }


def _made(run: RunFolder, plan: StoredPlan, keys: Sequence[str]) -> dict[str, Any]:
    """How the rows were made, for people."""
    sealed = run.cell(keys[0]).sealed()
    return {
        "command": plan.command,
        "environment": dict(sealed.environment) if sealed else {},
        "plan": plan.document(),
    }


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False).encode() + b"\n"


def _zip(files: Mapping[str, bytes]) -> bytes:
    """A zip archive; pictures are stored as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _WHEN)
            packed = not name.endswith(".png")
            entry.compress_type = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
            archive.writestr(entry, data)
    return buffer.getvalue()
