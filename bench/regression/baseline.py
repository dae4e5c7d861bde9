"""A baseline: what a run measured, image by image, in one small file that is committed.

The file is JSON of one schema, with sorted keys, without time, host or path, so the same run gives
the same bytes; it closes with a digest over itself, so a file that was edited is noticed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import __version__
from bench.contracts.cell import cell_label, defended_name
from bench.errors import GatebenchError, NotComparable
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical, digest
from bench.files.regular import read_regular
from bench.plans.stored import StoredPlan, read_plan
from bench.regression.document import check_document
from bench.regression.records import (
    MeasuredBoard,
    MeasuredCell,
    Terms,
    measured_boards,
    planned_board,
)
from bench.results.latency import read_latency
from bench.results.stats import Array
from bench.store.documents import parse, read_content
from bench.store.folder import RunFolder
from bench.store.latency import Latency

SCHEMA = 1

MADE_IN = ("device", "threads", "versions", "gatebench")
"""What a baseline says of the environment of its run."""


@dataclass(frozen=True)
class Baseline:
    """What a run measured.

    Attributes:
        plan: digest of its plan.
        boards: of the run.
        environment: device class, threads, versions.
        latency: what `gatebench latency` measured.
    """

    plan: str
    boards: tuple[MeasuredBoard, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)
    latency: Latency | None = None

    @classmethod
    def of_run(cls, folder: Path, *, whole: bool = True) -> Baseline:
        """From a run's folder.

        Args:
            folder: of the run.
            whole: refuse a run with cells that are neither finished nor skipped; else leave them
                out.

        Raises:
            NotComparable: it is not whole, or its shards were altered.
            RunFolderError: it is no run folder, or damaged.
        """
        run = RunFolder(folder)
        plan = read_plan(run)
        boards = measured_boards(run, plan)
        if whole:
            _check_whole(folder, boards)
        first = next((cell.key for board in boards for cell in board.cells), None)
        sealed = run.cell(first).sealed() if first else None
        environment: Mapping[str, Any] = sealed.environment if sealed else {}
        made = {name: environment.get(name) for name in MADE_IN} if environment else {}
        return cls(plan.digest, boards, made, read_latency(run, plan))

    @classmethod
    def of_plan(cls, plan: StoredPlan) -> Baseline:
        """What a run will measure: terms and cells, no numbers yet."""
        return cls(plan.digest, tuple(planned_board(board) for board in plan.boards))

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """From a file.

        Raises:
            NotComparable: it is not there, damaged, altered, or of a newer schema.
        """
        try:
            document = parse(read_regular(path))
        except FileNotFoundError as error:
            raise NotComparable(
                f"there is no baseline {path}",
                hint=f"'gatebench baseline RUN --out {path}' writes one",
            ) from error
        except (OSError, ValueError, RecursionError) as error:
            raise NotComparable(
                f"{path} is no baseline, or a damaged one: {error}",
                hint="take the committed one back, or write it anew",
            ) from error
        if not isinstance(document, dict) or "sha256" not in document or "schema" not in document:
            raise NotComparable(
                f"{path} is no baseline of gatebench", hint="'gatebench baseline RUN' writes one"
            )
        if type(document["schema"]) is not int or not 1 <= document["schema"] <= SCHEMA:
            raise NotComparable(
                f"{path} has schema {document['schema']}, this gatebench reads up to {SCHEMA}",
                hint="upgrade gatebench to read it",
            )
        stated = document.pop("sha256")
        if _digest(document) != stated:
            raise NotComparable(
                f"{path} was altered after it was written: its content does not have the digest "
                "it states",
                hint="write it anew with 'gatebench baseline RUN', or take the committed one back",
            )
        return _read(path, document)

    def write(self, path: Path) -> None:
        """Write the file; equal baselines give equal bytes."""
        write_atomic(path, self.bytes())

    def bytes(self) -> bytes:
        """The content of the file."""
        document = {
            "schema": SCHEMA,
            "gatebench": __version__,
            "plan": self.plan,
            "environment": dict(self.environment),
            "latency": self.latency.document() if self.latency else {},
            "boards": [_board_document(board) for board in self.boards],
        }
        document = json.loads(canonical(document))
        document["sha256"] = digest(document)
        return _text(document).encode() + b"\n"


def _check_whole(folder: Path, boards: Sequence[MeasuredBoard]) -> None:
    """Refuse a run with cells that should have numbers and have none, or with no numbers at all."""
    wrong = [
        f"{label} is {why}"
        for board in boards
        for label, why in board.left_out.items()
        if not why.startswith("skipped")
    ]
    if wrong:
        more = f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise NotComparable(
            f"{folder} is not whole: {'; '.join(wrong[:4])}{more}",
            hint="the command that made it finishes it",
        )
    if not any(board.cells for board in boards):
        raise NotComparable(f"{folder} has no cell with numbers: all were skipped")


def _text(value: Any, depth: int = 0) -> str:
    """JSON with a line for every entry, but lists of plain values on one line."""
    if not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, dict):
        parts = [f"{_text(key)}: {_text(part, depth + 1)}" for key, part in sorted(value.items())]
        ends = "{}"
    elif any(isinstance(part, dict | list) for part in value):
        parts, ends = [_text(part, depth + 1) for part in value], "[]"
    else:
        return f"[{', '.join(_text(part) for part in value)}]"
    space = "\n" + " " * (depth + 1)
    return f"{ends[0]}{space}{f',{space}'.join(parts)}{space[:-1]}{ends[1]}"


def _digest(document: Any) -> str:
    """ "" for what no file of ours can hold, such as half a surrogate pair."""
    try:
        return digest(document)
    except (ValueError, RecursionError):
        return ""


_MACS = ("clean_macs", "adversarial_macs")
_BITS = ("clean_correct", "adversarial_correct")
_CLEAN = ("clean_macs", "clean_correct")
_PLAIN = (
    "target",
    "defense",
    "attack",
    "key",
    "inputs",
    "control",
    "reference",
    "floor",
    "ceiling",
)


def _board_document(board: MeasuredBoard) -> dict[str, Any]:
    """A board as written.

    Clean columns are those of a (target, defense), so they are written once; right and wrong are 1
    and 0.
    """
    clean: dict[str, dict[str, Any]] = {}
    cells = []
    for cell in board.cells:
        document = {name: getattr(cell, name) for name in _PLAIN}
        document |= {name: getattr(cell, name).tolist() for name in _MACS}
        document |= {
            name: "".join("1" if bit else "0" for bit in getattr(cell, name)) for name in _BITS
        }
        shared = {name: document.pop(name) for name in _CLEAN}
        if clean.setdefault(cell.defended, shared) != shared:
            raise NotComparable(
                f"{cell.label}: its clean numbers differ from those of other attacks on "
                f"{cell.defended}"
            )
        cells.append(document)
    return {
        "protocol": board.protocol.document(),
        "ids": list(board.ids),
        "clean": clean,
        "cells": cells,
    }


def _read(path: Path, document: Mapping[str, Any]) -> Baseline:
    """A baseline from its document, whose digest is right.

    Raises:
        NotComparable: it is none.
    """
    try:
        check_document(document)
        times = {name: value for name, value in document["latency"].items() if name != "schema"}
        return Baseline(
            document["plan"],
            tuple(_board(board) for board in document["boards"]),
            document["environment"],
            read_content(times, Latency) if times else None,
        )
    except (GatebenchError, ValueError, TypeError, KeyError) as error:
        said = error.message if isinstance(error, GatebenchError) else str(error)
        raise NotComparable(f"{path} is no baseline of gatebench: {said}") from error


def _board(document: Mapping[str, Any]) -> MeasuredBoard:
    terms = Terms.read(document["protocol"])
    cells = tuple(_cell(cell, document) for cell in document["cells"])
    return MeasuredBoard(terms, tuple(document["ids"]), cells)


def _cell(document: Mapping[str, Any], board: Mapping[str, Any]) -> MeasuredCell:
    name = defended_name(document["target"], document["defense"])
    label = cell_label(document["target"], document["defense"], document["attack"])
    if name not in board["clean"]:
        raise ValueError(f"{label} has no clean columns")
    columns = {**document, **board["clean"][name]}
    if any(len(columns[column]) != len(board["ids"]) for column in _MACS + _BITS):
        raise ValueError(f"{label} has not one entry for each image")
    values = {key: columns[key] for key in _PLAIN if key in columns}
    values |= {column: np.array(columns[column], dtype=np.int64) for column in _MACS}
    values |= {column: _bits(columns[column]) for column in _BITS}
    return MeasuredCell(**values)


def _bits(text: str) -> Array:
    return np.array([bit == "1" for bit in text], dtype=bool)
