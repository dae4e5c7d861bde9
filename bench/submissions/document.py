"""submission.json: what an archive says of the images in it.

docs/submissions.md describes it for programs that write it without gatebench.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from bench.errors import SubmissionError
from bench.files.links import safe_link
from bench.store.documents import parse, read_content
from bench.submissions.archive import Archive

DOCUMENT = "submission.json"
SCHEMA = 1
"""Version of the format; a newer one is refused."""
MOST_OF_DOCUMENT = 2**25
"""Bytes of submission.json at most."""
MOST_WORDS = 2000
"""Characters of `what` at most; of `who` and labels a tenth."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+:=,()/-]*")
_LICENSE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class GivenBoard:
    """The board that images are meant for.

    Attributes:
        dataset: "NAME:SPLIT", as the board shows it.
        threat: as in a plan.
        subset: digest of the board's images, "" where it is not stated.
        budget: of the board, where a run has several boards of one threat.
        seed: likewise.
    """

    dataset: str
    threat: str | Mapping[str, str | int]
    subset: str = ""
    budget: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class GivenImage:
    """One image, and what whoever made it measured; numbers are optional, and compared.

    Attributes:
        id: of the clean image.
        file: name of the PNG file in the archive.
        sha256: of that file, hex.
        label: true class.
        clean_prediction: class of the clean image.
        adversarial_prediction: class of this image.
        clean_macs: MACs that the clean image executes.
        adversarial_macs: MACs that this image executes.
        linf: largest |D| in grey levels.
        squared: sum of D^2.
    """

    id: str
    file: str
    sha256: str
    label: int | None = None
    clean_prediction: int | None = None
    adversarial_prediction: int | None = None
    clean_macs: int | None = None
    adversarial_macs: int | None = None
    linf: int | None = None
    squared: int | None = None


CLAIMS = tuple(one.name for one in fields(GivenImage) if one.default is None)
"""The numbers of an image that an archive may claim; columns of a shard have the same names."""


@dataclass(frozen=True)
class GivenRow:
    """The images of one attack on one target.

    Attributes:
        attack: what it is to be called on the board.
        target: label on the board.
        weights: sha256 of the target's weights, or "random:SEED".
        images: one for each image of the board, in any order.
        defense: label on the board, "" for none.
    """

    attack: str
    target: str
    weights: str
    images: tuple[GivenImage, ...]
    defense: str = ""


@dataclass(frozen=True)
class SubmissionDocument:
    """submission.json.

    Attributes:
        who: hands in.
        what: the images are, in words.
        license: of the images, an SPDX identifier.
        board: that they are meant for.
        rows: at least one.
        paper: a link, "" for none.
        code: a link, "" for none.
        made: how they were made (plan, environment, command); for people, never read here.
    """

    who: str
    what: str
    license: str
    board: GivenBoard
    rows: tuple[GivenRow, ...]
    paper: str = ""
    code: str = ""
    made: Mapping[str, Any] = field(default_factory=dict)


def read_submission_document(archive: Archive) -> SubmissionDocument:
    """What an archive says of itself, every field of its type and every text fit to be shown.

    Raises:
        SubmissionError: naming the field.
    """
    where = f"{archive.path}: {DOCUMENT}"
    try:
        data = archive.read(DOCUMENT)
        if len(data) > MOST_OF_DOCUMENT:
            raise ValueError(f"it has {len(data):,} bytes, more than the {MOST_OF_DOCUMENT:,} read")
        document = parse(data)
        if not isinstance(document, dict):
            raise ValueError("it is no table")
        if (schema := document.pop("schema", None)) != SCHEMA or isinstance(schema, bool):
            raise ValueError(f"its schema is {schema!r:.40}, this gatebench reads {SCHEMA}")
        found = read_content(document, SubmissionDocument)
    except (ValueError, RecursionError) as error:
        said = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        raise SubmissionError(f"{where} cannot be used: {said[:300]}") from error
    if problem := _problem(found):
        raise SubmissionError(f"{where}: {problem}")
    named = {image.file for row in found.rows for image in row.images}
    for name in archive.names:
        if name != DOCUMENT and name not in named:
            raise SubmissionError(f"{archive.path} holds {name!r}, which {DOCUMENT} does not name")
    return found


def _problem(found: SubmissionDocument) -> str:
    """The first thing that is wrong with the content, in words; "" where nothing is."""
    for name, text, most in (
        ("who", found.who, MOST_WORDS // 10),
        ("what", found.what, MOST_WORDS),
    ):
        if not is_showable(text, most):
            return f"{name} is empty, longer than {most} characters, or holds hidden characters"
    if not _LICENSE.fullmatch(found.license):
        return "license is no SPDX identifier such as CC-BY-4.0"
    for name, link in (("paper", found.paper), ("code", found.code)):
        if link and (safe_link(link) is None or len(link) > MOST_WORDS):
            return f"{name} is no link with http, https or mailto"
    if not found.rows:
        return "it has no rows"
    seen = set()
    for number, row in enumerate(found.rows):
        where = f"rows[{number}]"
        if not is_label(row.attack):
            return f"{where}.attack is no label (letters, digits and ' ._+:=,()/-')"
        if (who := (row.attack, row.target, row.defense)) in seen:
            return f"{where} is there twice"
        seen.add(who)
        ids = [image.id for image in row.images]
        if len(set(ids)) != len(ids):
            return f"{where} has two images of one id"
        if any(not _DIGEST.fullmatch(image.sha256) for image in row.images):
            return f"{where} has a sha256 that is none (64 hex digits)"
    return ""


def is_label(text: str) -> bool:
    """Whether a text may be the label of a row."""
    return len(text) <= MOST_WORDS // 20 and _LABEL.fullmatch(text) is not None


def is_showable(text: str, most: int = MOST_WORDS) -> bool:
    """Whether a text is one line, not empty, and without characters that are not seen."""
    hidden = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
    return (
        len(text.strip()) > 0
        and len(text) <= most
        and not any(unicodedata.category(c) in hidden for c in text)
    )
