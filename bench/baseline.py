"""A baseline: what a run measured, image by image, in one small file that is committed and held against later runs.

The file is JSON of one schema, with sorted keys, without time, host or path, so the same run gives the same bytes; it closes
with a digest over itself, so a file that was edited is noticed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import __version__
from bench.atomic import write_atomic
from bench.errors import NotComparable
from bench.keys import canonical, digest
from bench.plan import entry_label
from bench.stats import Array
from bench.store import RunFolder, read_json

SCHEMA = 1


@dataclass(frozen=True)
class Cell:
    """One sealed cell; columns are (n,), in the order of the board's ids.

    Attributes:
        target, defense, attack: labels. inputs: resolved target, defence and attack. control: ranked with nobody.
        reference: MACs of the undefended network with everything on. ceiling: of the target itself.
        clean_macs, adversarial_macs: int64. clean_correct, adversarial_correct: bool.
    """

    target: str
    defense: str
    attack: str
    inputs: Mapping[str, Any]
    control: bool
    reference: int
    ceiling: int
    clean_macs: Array
    adversarial_macs: Array
    clean_correct: Array
    adversarial_correct: Array

    @property
    def who(self) -> tuple[str, str]:
        """The target and its defence."""
        return self.target, self.defense

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return f"{self.defended} / {self.attack}"

    @property
    def defended(self) -> str:
        """The target with its defence, in words."""
        return f"{self.target} + {self.defense}" if self.defense else self.target


@dataclass(frozen=True)
class Part:
    """The cells of one board. `protocol` holds data set, subset, threat, budget, batch, seed and fit; `ids` the images."""

    protocol: Mapping[str, Any]
    ids: tuple[str, ...]
    cells: tuple[Cell, ...]


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
        environment: Mapping[str, Any] = {}
        problems: list[str] = []
        parts = []
        for board in plan["boards"]:
            cells: list[Cell] = []
            ids: tuple[str, ...] = ()
            for entry in board["cells"]:
                store = run.cell(entry["key"])
                sealed = store.sealed()
                status = "not finished" if sealed is None else sealed["status"]
                if entry["excluded"] or status == "skipped":
                    continue
                if sealed is None or status != "ok":
                    problems.append(f"{entry_label(entry)} is {status}")
                    continue
                if wrong := store.altered(sealed["shards"]):
                    problems.append(f"{entry_label(entry)}: {wrong[0]} was changed after it was sealed")
                    continue
                table = store.table(["id", "label", "clean_prediction", "adversarial_prediction", "clean_macs", "adversarial_macs"])
                found = {name: table[name].to_pylist() for name in table.column_names}
                ids = ids or tuple(found["id"])
                cells.append(_cell(entry, read_json(store.path / "target.json"), found))
                environment = environment or {k: sealed["environment"].get(k) for k in ("device", "threads", "versions", "gatebench")}
            protocol = {**board["protocol"], "dataset": board.get("dataset", board["protocol"]["dataset"]), "subset": board["subset"]}
            parts.append(Part(protocol, ids, tuple(cells)))
        if problems and whole:
            raise NotComparable(f"{folder} is not whole: {'; '.join(problems[:4])}", hint="the command that made it finishes it")
        latency = folder / "latency.json"
        return cls(plan["digest"], tuple(parts), environment, read_json(latency) if latency.is_file() else {})

    @classmethod
    def read(cls, path: Path) -> Baseline:
        """From a file.

        Raises:
            NotComparable: it is not there, damaged, altered, or of a newer schema.
        """
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise NotComparable(f"there is no baseline {path}", hint=f"'gatebench baseline RUN --out {path}' writes one") from error
        except (OSError, ValueError) as error:
            raise NotComparable(f"{path} is no baseline: {error}") from error
        if not isinstance(document, dict) or "sha256" not in document or "schema" not in document:
            raise NotComparable(f"{path} is no baseline of gatebench", hint="'gatebench baseline RUN' writes one")
        if document["schema"] > SCHEMA:
            raise NotComparable(
                f"{path} has schema {document['schema']}, this gatebench reads up to {SCHEMA}", hint="upgrade gatebench to read it"
            )
        stated = document.pop("sha256")
        if digest(document) != stated:
            raise NotComparable(
                f"{path} was altered after it was written: its content does not have the digest it states",
                hint="write it anew with 'gatebench baseline RUN', or take the committed one back",
            )
        try:
            return cls(document["plan"], tuple(_part(part) for part in document["boards"]), document["environment"], document["latency"])
        except (KeyError, TypeError, ValueError) as error:
            raise NotComparable(f"{path} is no baseline of gatebench: {type(error).__name__} {error}") from error

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
        return _LIST.sub(lambda match: "[" + re.sub(r"\s*\n\s*", " ", match[1]).strip() + "]", text).encode() + b"\n"


_LIST = re.compile(r"\[\n([^\[\]{}]*)\]")
"""A list of plain values, which is written on one line."""


def _cell(entry: Mapping[str, Any], described: Mapping[str, Any], found: Mapping[str, Sequence[Any]]) -> Cell:
    label = np.array(found["label"])
    return Cell(
        target=entry["target"]["label"],
        defense=entry["defense"]["label"] if entry["defense"] else "",
        attack=entry["attack"]["label"],
        inputs={kind: _inputs(entry[kind]) for kind in ("target", "defense", "attack")},
        control=bool(entry["attack"]["control"]),
        reference=int(described.get("reference", described["ceiling"])),
        ceiling=int(described["ceiling"]),
        clean_macs=np.array(found["clean_macs"], dtype=np.int64),
        adversarial_macs=np.array(found["adversarial_macs"], dtype=np.int64),
        clean_correct=np.array(found["clean_prediction"]) == label,
        adversarial_correct=np.array(found["adversarial_prediction"]) == label,
    )


def _inputs(component: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a component is, as far as numbers go."""
    if component is None:
        return None
    found = {"name": f"{component['distribution']}/{component['name']}", "params": component["params"], "version": component["version"]}
    return found | ({"weights": component["digest"] or component["weights"]} if component["weights"] else {})


_COLUMNS = ("clean_macs", "adversarial_macs")
_BITS = ("clean_correct", "adversarial_correct")
_PLAIN = ("target", "defense", "attack", "inputs", "control", "reference", "ceiling")


def _part_document(part: Part) -> dict[str, Any]:
    """Clean columns are those of a (target, defence), so they are written once; right and wrong are 1 and 0."""
    clean: dict[str, dict[str, Any]] = {}
    cells = []
    for cell in part.cells:
        document = {name: getattr(cell, name) for name in _PLAIN}
        document |= {name: getattr(cell, name).tolist() for name in _COLUMNS}
        document |= {name: "".join("1" if bit else "0" for bit in getattr(cell, name)) for name in _BITS}
        shared = {name: document.pop(name) for name in ("clean_macs", "clean_correct")}
        if clean.setdefault(cell.defended, shared) != shared:
            raise NotComparable(f"{cell.label}: its clean numbers differ from those of other attacks on {cell.defended}")
        cells.append(document)
    return {"protocol": dict(part.protocol), "ids": list(part.ids), "clean": clean, "cells": cells}


def _part(document: Mapping[str, Any]) -> Part:
    cells = []
    for found in document["cells"]:
        name = f"{found['target']} + {found['defense']}" if found["defense"] else found["target"]
        columns = {**document["clean"][name], **found}
        arguments: dict[str, Any] = {key: found[key] for key in _PLAIN}
        arguments |= {key: np.array(columns[key], dtype=np.int64) for key in _COLUMNS}
        arguments |= {key: np.array([bit == "1" for bit in columns[key]], dtype=bool) for key in _BITS}
        cells.append(Cell(**arguments))
    return Part(document["protocol"], tuple(document["ids"]), tuple(cells))
