"""cell.json: how a cell ended, with sums over its rows and the digests of its shards."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from bench.errors import RunFolderError
from bench.store.documents import SCHEMA, Count, Number, read_document
from bench.store.schema import names

CELL = "cell.json"
FIT = "fit.json"
STATUSES = ("ok", "skipped", "invalid", "failed", "timeout", "oom")
"""What may become of a cell."""

Status = Literal["ok", "skipped", "invalid", "failed", "timeout", "oom"]

ALIKE = ("gatebench", "versions", "device")
"""What has to agree in two environments for a defense to learn the same in both."""

SHARD_NAME = re.compile(r"shard-([0-9]{5,9})-([0-9]{5,9})\.parquet")
"""A shard's file name, with the places of its first and its last image."""


class Environment(TypedDict, total=False):
    """What made a shard, and the digest of what its defense learned; no time, host or path."""

    gatebench: str
    versions: dict[str, str]
    device: str
    threads: int
    sources: dict[str, str]
    reads: dict[str, dict[str, str]]
    start: str
    learnt: str


def learned_otherwise(one: Environment, other: Environment) -> bool:
    """Whether what defenses learned differs though they were made alike; other versions and
    devices may learn other last digits, and older shards do not say what was learned."""
    alike = all(one.get(name) == other.get(name) for name in ALIKE)
    return alike and {"learnt"} <= one.keys() & other.keys() and one["learnt"] != other["learnt"]


@dataclass(frozen=True)
class FitNote:
    """What an attack learned first (fit.json).

    Attributes:
        images: of the fit.
        evaluations: forward-equivalents that they cost together.
        sha256: digest of what was learned.
    """

    images: Count
    evaluations: Count
    sha256: str

    def document(self) -> dict[str, Any]:
        """As written to fit.json."""
        return {"schema": SCHEMA, **asdict(self)}


@dataclass(frozen=True)
class MemberWins:
    """A member of an ensemble.

    Attributes:
        key: of its cell.
        label: of its attack.
        wins: on how many images it won.
        evaluations: what it used in all.
        adds: recovery that the ensemble loses without it, as a share.
    """

    key: str
    label: str
    wins: Count
    evaluations: Count
    adds: Number = 0.0


@dataclass(frozen=True)
class LeftOut:
    """A member of an ensemble that does not apply, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Combination:
    """What an ensemble's cell is made of.

    Attributes:
        budget: forward-equivalents an image in all.
        members: that take part.
        left_out: that do not.
        adaptive: what the members did about the defense, in words.
        winner: place of the member that won each image.
    """

    budget: Count
    members: tuple[MemberWins, ...]
    left_out: tuple[LeftOut, ...]
    adaptive: tuple[str, ...]
    winner: tuple[Count, ...]

    def document(self) -> dict[str, Any]:
        """As written to cell.json."""
        return asdict(self)


@dataclass(frozen=True)
class Sealed:
    """How a cell ended.

    Attributes:
        key: of the cell.
        inputs: the resolved cell, as in plan.json with its protocol.
        status: one of `STATUSES`.
        reason: of a status other than "ok".
        detail: a traceback, or empty.
        flags: short words of what to know before believing the numbers.
        aggregates: "images", and the sums of the columns that are summed; {} without numbers.
        environment: what made the first shard; {} without one.
        shards: file name -> sha256; {} without numbers.
        combination: what an ensemble is made of.
        fit: what an attack learned first.
    """

    key: str
    inputs: Mapping[str, Any]
    status: Status
    reason: str
    detail: str
    flags: tuple[str, ...]
    aggregates: Mapping[str, int]
    environment: Environment
    shards: Mapping[str, str]
    combination: Combination | None = None
    fit: FitNote | None = field(default=None)

    def document(self) -> dict[str, Any]:
        """As written to cell.json."""
        found = {name: value for name, value in vars(self).items() if value is not None}
        for name in ("combination", "fit"):
            if name in found:
                found[name] = asdict(found[name])
        return {"schema": SCHEMA, **found}


def read_sealed(folder: Path) -> Sealed | None:
    """How the cell in this folder ended; None while it is unfinished.

    Raises:
        RunFolderError: cell.json is damaged, of a newer schema, or does not hang together.
    """
    path = folder / CELL
    if not path.exists():
        return None
    found = read_document(path, Sealed, called="record of a cell")
    wrong = ""
    if found.status == "ok" and not {"images", *names(summed=True)} <= set(found.aggregates):
        wrong = "it lacks sums"
    elif foreign := [name for name in found.shards if not SHARD_NAME.fullmatch(name)]:
        wrong = f"{foreign[0][:60]!r} is no name of a shard"
    elif found.combination and max(found.combination.winner, default=-1) >= len(
        found.combination.members
    ):
        wrong = "an image was won by no member"
    if wrong:
        raise RunFolderError(f"{path} is no record of a cell: {wrong}")
    return found


def read_fit(folder: Path) -> FitNote | None:
    """What an attack learned for the cell in this folder; None where there is no fit.json.

    Raises:
        RunFolderError: it is damaged.
    """
    path = folder / FIT
    return read_document(path, FitNote, called="note of a fit") if path.exists() else None
