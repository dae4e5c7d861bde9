"""A board over time: what a publication said before, and what changed, row by row.

A publication carries the tables of its earlier versions in `versions.json`. The next one reads
them there, adds its own where it says anything else, and tells of each row what changed and why:
another network, another attack, another harness, another protocol, or none of these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.files.canonical import digest
from bench.results.records import Board, BoardCell
from bench.store.documents import SCHEMA, read_document

FILE = "versions.json"
MOST_VERSIONS = 200
"""Versions that are kept at most; the oldest is left out first."""


@dataclass(frozen=True)
class PublishedRow:
    """What a publication said of one row.

    Attributes:
        board: data set and terms, which stay the same when a run gets another name.
        row: label.
        status: of the cell.
        reason: of a status other than "ok".
        rank: of the attack, None for none.
        recovery: as a share, None where there is none.
        macs: mean, adversarial.
        network: digest of what the target and its defense are, and of their code.
        attack: digest of what the attack is, and of its code.
        harness: versions, device class and threads, in words.
        protocol: digest of the terms.
        besides: digest of its accuracy, PSNR and flags; "" in versions that did not note them.
    """

    board: str
    row: str
    status: str
    reason: str
    rank: int | None
    recovery: float | None
    macs: float | None
    network: str
    attack: str
    harness: str
    protocol: str
    besides: str = ""

    def says_the_same(self, other: PublishedRow) -> bool:
        """Whether two versions of a row agree in all that both of them note."""
        noted = bool(self.besides and other.besides)
        return self == (other if noted else replace(other, besides=self.besides))


@dataclass(frozen=True)
class Version:
    """One version of a publication.

    Attributes:
        name: as it was called; its number where nobody called it anything.
        rows: of all boards, in order.
    """

    name: str
    rows: tuple[PublishedRow, ...]


@dataclass(frozen=True)
class History:
    """All versions of a publication, the oldest first."""

    versions: tuple[Version, ...] = ()

    def document(self) -> bytes:
        """As it lies in the publication."""
        document = {"schema": SCHEMA, **asdict(self)}
        return json.dumps(document, sort_keys=True, indent=1, allow_nan=False).encode() + b"\n"

    def with_boards(self, boards: Sequence[Board], name: str = "") -> History:
        """With what boards say now, where that is anything else than the last version.

        Args:
            boards: to be published.
            name: of the version; its number by default.
        """
        rows = tuple(
            _row(name_of, board, cell)
            for name_of, board in zip(_names(boards), boards, strict=True)
            for cell in board.cells
        )
        last = self.versions[-1] if self.versions else None
        if last is not None and _agree(last.rows, rows):
            named = self.versions[:-1], replace(last, name=name or last.name)
            return History((*named[0], replace(named[1], rows=rows)))
        number = len(self.versions) + 1
        return History((*self.versions, Version(name or str(number), rows))[-MOST_VERSIONS:])


@dataclass(frozen=True)
class RowChange:
    """What became of a row between two versions.

    Attributes:
        before: of the row, None where it is new.
        now: of the row, None where it is gone.
        why: in words.
    """

    before: PublishedRow | None
    now: PublishedRow | None
    why: str


def read_history(site: Path) -> History:
    """The versions that a publication carries; none where there is no publication.

    Raises:
        RunFolderError: versions.json is damaged.
    """
    path = site / FILE
    return (
        read_document(path, History, called="history of a publication")
        if path.exists()
        else History()
    )


def changes(before: Version, now: Version) -> list[RowChange]:
    """The rows that differ between two versions, in the order of the later one."""
    earlier = {(row.board, row.row): row for row in before.rows}
    later = {(row.board, row.row): row for row in now.rows}
    found = [
        RowChange(earlier.get(place), row, _why(earlier.get(place), row))
        for place, row in later.items()
        if place not in earlier or not earlier[place].says_the_same(row)
    ]
    gone = [RowChange(row, None, "is gone") for place, row in earlier.items() if place not in later]
    return [*found, *gone]


def _why(before: PublishedRow | None, now: PublishedRow) -> str:
    """Why a row says something else, by what it was made of."""
    if before is None:
        return "is new"
    if before.status != now.status:
        reason = f": {now.reason}" if now.reason else ""
        return f"was {before.status}, is {now.status}{reason}"
    found = [
        text
        for text, differs in (
            ("another protocol", before.protocol != now.protocol),
            ("another network", before.network != now.network),
            ("another attack", before.attack != now.attack),
            (f"made otherwise: {now.harness}", before.harness != now.harness),
        )
        if differs
    ]
    if not found and before.macs == now.macs and before.recovery == now.recovery:
        if before.rank != now.rank:
            return "its rank"
        return "its reason" if before.reason != now.reason else "its accuracy, PSNR or flags"
    return "; ".join(found) or "the same networks, attacks and harness: nothing explains it"


def _agree(before: Sequence[PublishedRow], now: Sequence[PublishedRow]) -> bool:
    return len(before) == len(now) and all(map(PublishedRow.says_the_same, before, now))


def _names(boards: Sequence[Board]) -> list[str]:
    """What tells the boards of a publication apart; the run's name only where nothing else does."""
    plain = [f"{board.dataset}, {board.terms}" for board in boards]
    return [
        name if plain.count(name) == 1 else f"{name}, {board.name}"
        for name, board in zip(plain, boards, strict=True)
    ]


def _row(name: str, board: Board, cell: BoardCell) -> PublishedRow:
    sources = cell.environment.get("sources", {})
    harness = {
        name: value
        for name, value in cell.environment.items()
        if name in ("gatebench", "versions", "device", "threads")
    }
    return PublishedRow(
        board=name,
        row=cell.label,
        status=cell.status,
        reason=cell.reason,
        rank=cell.attack_rank,
        recovery=cell.recovery.value,
        macs=cell.adversarial_macs,
        network=_digest(cell, ("target", "defense"), sources),
        attack=_digest(cell, ("attack",), sources),
        harness=_words(harness),
        protocol=digest(dict(board.protocol))[:16],
        besides=_besides(cell),
    )


def _besides(cell: BoardCell) -> str:
    """What a row says beside its costs."""
    shares = cell.clean_accuracy, cell.adversarial_accuracy, cell.agreement
    numbers = [*(share.value for share in shares), cell.psnr, cell.pooled_psnr]
    return digest({"numbers": list(map(str, numbers)), "flags": list(cell.flags)})[:16]


def _digest(cell: BoardCell, kinds: Sequence[str], sources: Mapping[str, str]) -> str:
    """What a row is made of, without what it is called."""
    parts: dict[str, Any] = {}
    for kind in kinds:
        made = dict(cell.inputs.get(kind) or {})
        parts[kind] = {name: made.get(name) for name in ("name", "params", "version", "digest")}
        parts[f"{kind} code"] = sources.get(kind)
    return digest(parts)[:16]


def _words(harness: Mapping[str, Any]) -> str:
    """An environment in one line."""
    versions = ", ".join(f"{name} {value}" for name, value in harness.get("versions", {}).items())
    plain = [
        f"{name} {harness[name]}" for name in ("gatebench", "device", "threads") if name in harness
    ]
    return ", ".join([*plain, *([versions] if versions else [])])
