"""What lies beside the rows of a cell that was handed in, or that was withdrawn."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.files.writing import COPY
from bench.store.documents import SCHEMA, read_document, write_json

SUBMISSION, WITHDRAWN = "submission.json", "withdrawn.json"


@dataclass(frozen=True)
class Submission:
    """Whose images a cell holds.

    Attributes:
        who: handed them in.
        what: they are, in words.
        license: of the images, an SPDX identifier.
        paper: a link, "" for none.
        code: a link, "" for none.
        archive: sha256 of the archive, hex.
    """

    who: str
    what: str
    license: str
    paper: str
    code: str
    archive: str

    def write(self, folder: Path) -> None:
        """Write it into a cell's folder."""
        write_json(folder / SUBMISSION, {"schema": SCHEMA, **asdict(self)}, elsewhere=COPY)


@dataclass(frozen=True)
class Withdrawal:
    """Why the numbers of a cell are withdrawn."""

    reason: str

    def write(self, folder: Path) -> None:
        """Write it into a cell's folder."""
        write_json(folder / WITHDRAWN, {"schema": SCHEMA, **asdict(self)}, elsewhere=COPY)


def read_submission(folder: Path) -> Submission | None:
    """Who handed a cell in; None for one that was computed here.

    Raises:
        RunFolderError: submission.json is damaged.
    """
    path = folder / SUBMISSION
    if not os.path.lexists(path):
        return None
    return read_document(path, Submission, called="note of a hand-in")


def read_withdrawal(folder: Path) -> Withdrawal | None:
    """Why a cell was withdrawn; None where it was not.

    Raises:
        RunFolderError: withdrawn.json is damaged.
    """
    path = folder / WITHDRAWN
    if not os.path.lexists(path):
        return None
    return read_document(path, Withdrawal, called="note of a withdrawal")
