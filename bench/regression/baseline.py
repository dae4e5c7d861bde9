"""A baseline: what a run measured, image by image, in one small file that is committed and held against later runs.

The file is JSON of one schema, with sorted keys, without time, host or path, so the same run gives the same bytes; it closes
with a digest over itself, so a file that was edited is noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import __version__
from bench.contracts.threat import parse_threat
from bench.errors import GatebenchError, NotComparable
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical, digest
from bench.plans.plan import defended_name
from bench.regression.document import check_document
from bench.regression.records import Cell, Part, part_of_plan, part_of_run
from bench.store.folder import RunFolder

SCHEMA = 1


@dataclass(frozen=True)
class Baseline:
    """What a run measured.

    Attributes:
        plan: digest of its plan. environment: device class, threads, versions. latency: what `gatebench latency` wrote, or {}.
    """

    plan: str
    parts: tuple[Part, ...]
    environment: Mapping[str, Any] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_run(cls, folder: Path, *, whole: bool = True) -> Baseline:
        """From a run's folder.

        Args:
            whole: refuse a run with cells that are neither finished nor skipped; else leave them out.

        Raises:
            NotComparable: it is not whole, or its shards were altered.
        """
        run = RunFolder(folder)
        plan = run.plan()
        parts = tuple(part_of_run(run, board) for board in plan["boards"])
        if whole:
            wrong = [
                f"{label} is {why}"
                for part in parts
                for label, why in part.left_out.items()
                if not why.startswith("skipped")
            ]
            if wrong:
                shown = "; ".join(wrong[:4]) + (
                    f"; and {len(wrong) - 4} more" if len(wrong) > 4 else ""
                )
                raise NotComparable(
                    f"{folder} is not whole: {shown}", hint="the command that made it finishes it"
                )
            if not any(part.cells for part in parts):
                raise NotComparable(f"{folder} has no cell with numbers: all were skipped")
        first = next((cell.key for part in parts for cell in part.cells), None)
        made = (run.cell(first).sealed() or {}).get("environment", {}) if first else {}
        environment = (
            {name: made.get(name) for name in ("device", "threads", "versions", "gatebench")}
            if made
            else {}
        )
        return cls(plan["digest"], parts, environment, run.latency())

    @classmethod
    def of_plan(cls, document: Mapping[str, Any]) -> Baseline:
        """What a run will measure, from its plan.json: terms and cells, no numbers yet."""
        return cls(document["digest"], tuple(part_of_plan(board) for board in document["boards"]))

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """From a file.

        Raises:
            NotComparable: it is not there, damaged, altered, or of a newer schema.
        """
        try:
            document = json.loads(path.read_bytes())
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
                f"{path} was altered after it was written: its content does not have the digest it states",
                hint="write it anew with 'gatebench baseline RUN', or take the committed one back",
            )
        try:
            check_document(document)
            environment, latency = (_table(document[name]) for name in ("environment", "latency"))
            return cls(
                document["plan"],
                tuple(_part(part) for part in document["boards"]),
                environment,
                latency,
            )
        except (
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
            OverflowError,
            GatebenchError,
        ) as error:
            raise NotComparable(
                f"{path} is no baseline of gatebench: {type(error).__name__} {error}"
            ) from error

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
            "latency": dict(self.latency),
            "boards": [_part_document(part) for part in self.parts],
        }
        document["sha256"] = digest(json.loads(canonical(document)))
        text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
        return (
            _LIST.sub(
                lambda match: "[" + re.sub(r"\s*\n\s*", " ", match[1]).strip() + "]", text
            ).encode()
            + b"\n"
        )


_LIST = re.compile(r"\[\n([^\[\]{}]*)\]")
"""A list of plain values, which is written on one line."""


def _digest(document: Any) -> str:
    """ "" for what no file of ours can hold, such as half a surrogate pair."""
    try:
        return digest(document)
    except ValueError:
        return ""


_COLUMNS = ("clean_macs", "adversarial_macs")
_BITS = ("clean_correct", "adversarial_correct")
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


def _part_document(part: Part) -> dict[str, Any]:
    """Clean columns are those of a (target, defence), so they are written once; right and wrong are 1 and 0."""
    clean: dict[str, dict[str, Any]] = {}
    cells = []
    for cell in part.cells:
        document = {name: getattr(cell, name) for name in _PLAIN}
        document |= {name: getattr(cell, name).tolist() for name in _COLUMNS}
        document |= {
            name: "".join("1" if bit else "0" for bit in getattr(cell, name)) for name in _BITS
        }
        shared = {name: document.pop(name) for name in ("clean_macs", "clean_correct")}
        if clean.setdefault(cell.defended, shared) != shared:
            raise NotComparable(
                f"{cell.label}: its clean numbers differ from those of other attacks on {cell.defended}"
            )
        cells.append(document)
    return {"protocol": dict(part.protocol), "ids": list(part.ids), "clean": clean, "cells": cells}


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected a table, got {type(value).__name__}")
    return value


def _macs(values: Any) -> Any:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise TypeError("MACs are whole numbers")
    return np.array(values, dtype=np.int64)


def _part(document: Mapping[str, Any]) -> Part:
    parse_threat(document["protocol"]["threat"])
    cells = []
    for found in document["cells"]:
        name = defended_name(found["target"], found["defense"])
        columns = {**document["clean"][name], **found}
        arguments: dict[str, Any] = {key: found[key] for key in _PLAIN if key in found}
        arguments |= {key: _macs(columns[key]) for key in _COLUMNS}
        arguments |= {
            key: np.array([bit == "1" for bit in columns[key]], dtype=bool) for key in _BITS
        }
        if any(len(arguments[key]) != len(document["ids"]) for key in _COLUMNS + _BITS):
            raise ValueError(f"{name} / {found['attack']} has not one entry for each image")
        if (
            type(found["reference"]) is not int
            or found["reference"] <= 0
            or not {"target", "defense", "attack"} <= set(found["inputs"])
        ):
            raise ValueError(f"{name} / {found['attack']} does not say what was measured")
        cells.append(Cell(**arguments))
    return Part(document["protocol"], tuple(document["ids"]), tuple(cells))
