"""The closed schema of a plan, and its mistakes in words."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import did_you_mean
from bench.plans.plan import SCHEMA


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FitTable(_Strict):
    split: str = "train"
    images: int = 256
    budget: int = 30


class ProtocolTable(_Strict):
    dataset: str
    images: int = 100
    batch: int = 32
    threat: Any
    budget: int | list[int] = 150
    seeds: list[int] = [0]
    audit: int = 4
    fit: FitTable = FitTable()


class RunTable(_Strict):
    device: str = "auto"
    shard: int = 64
    deadline: str | int = "10m"
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    executor: str = "local"


class TargetTable(_Strict):
    use: str
    params: dict[str, Any] = {}
    weights: str
    label: str | None = None


class DefenseTable(_Strict):
    use: str
    params: dict[str, Any] = {}
    label: str | None = None


class AttackTable(_Strict):
    use: str
    params: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    behind: list[str] | None = None
    label: str | None = None


class ExcludeTable(_Strict):
    target: str | None = None
    defense: str | None = None
    attack: str | None = None
    reason: str


class Document(_Strict):
    schema_: int = SCHEMA
    extends: str | None = None
    paper: str | None = None
    audits: bool = False
    protocol: ProtocolTable
    run: RunTable = RunTable()
    target: list[TargetTable] = []
    defense: list[DefenseTable] = []
    attack: list[AttackTable] = []
    exclude: list[ExcludeTable] = []


ABSENT = "(absent)"
"""Stands where a name is missing or is no string: already told, not to be looked up."""

_STAND_INS = {
    "dataset": ABSENT,
    "threat": "none",
    "use": ABSENT,
    "weights": "random:0",
    "reason": ABSENT,
    "protocol": {},
    "images": 1,
}


def read_tables(raw: Mapping[str, Any]) -> tuple[Document | None, list[tuple[str, str]]]:
    """The document in its schema, and its mistakes.

    Where something does not fit, it is told and left out, so that the rest can still be looked at.

    Returns:
        (document, [(path, message), …]); None where nothing can be made of it.
    """
    document = json.loads(
        json.dumps(
            {"schema_" if key == "schema" else key: value for key, value in raw.items()},
            default=str,
        )
    )
    told: list[tuple[str, str]] = []
    for _ in range(6):  # a repair may bring to light that something else is missing
        try:
            return Document.model_validate_json(json.dumps(document)), told
        except ValidationError as error:
            items = error.errors()
        told = told or _problems(items, document)
        for steps in {_steps(item, document): None for item in items}:
            _repair(document, steps)
    return None, told


def _steps(item: Mapping[str, Any], document: Any) -> tuple[str | int, ...]:
    """Where in the document a mistake is, without the words that pydantic puts in for the members of a union."""
    steps: list[str | int] = []
    at = document
    for i, part in enumerate(item["loc"]):
        inside = (
            part in at
            if isinstance(at, dict)
            else isinstance(at, list) and isinstance(part, int) and part < len(at)
        )
        if inside:
            at = at[part]
        if inside or (item["type"] == "missing" and i == len(item["loc"]) - 1):
            steps.append(part)
    return tuple(steps)


def _repair(document: Any, steps: tuple[str | int, ...]) -> None:
    """Take away what does not fit, or put a stand-in where something must be."""
    at = document
    for part in steps[:-1]:
        try:
            at = at[part]
        except (KeyError, IndexError, TypeError):
            return
    if not steps:
        return
    last = steps[-1]
    if isinstance(at, list) and isinstance(last, int):
        tables = len(steps) == 2 and last < len(at)
        at[last:] = [{}, *at[last + 1 :]] if tables else []
    elif isinstance(at, dict) and isinstance(last, str) and last in _STAND_INS:
        at[last] = copy.deepcopy(_STAND_INS[last])
    elif isinstance(at, dict):
        at.pop(str(last), None)


def _problems(items: Sequence[Any], document: Any) -> list[tuple[str, str]]:
    """One (path, message) a place; the members of a union have theirs in one."""
    places: dict[tuple[str | int, ...], list[Any]] = {}
    for item in items:
        places.setdefault(_steps(item, document), []).append(item)
    inner = {steps[:i] for steps in places for i in range(len(steps))}
    return [_problem(steps, found) for steps, found in places.items() if steps not in inner]


def _problem(steps: tuple[str | int, ...], items: Sequence[Any]) -> tuple[str, str]:
    path = _path(steps)
    first = items[0]
    if first["type"] == "extra_forbidden":
        key = str(steps[-1])
        return path, f"{path}: unknown key {key!r}{did_you_mean(key, _fields_at(steps[:-1]))}"
    if first["type"] == "missing":
        return path, f"{path}: missing"
    expected = [_expected(item) for item in items]
    return (
        path,
        f"{path}: {' or '.join([expected[0], *(text.removeprefix('expected ') for text in expected[1:])])}, got {first['input']!r}",
    )


def _path(loc: Sequence[str | int]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text.replace("schema_", "schema")


_TABLES: dict[str, type[BaseModel]] = {
    "protocol": ProtocolTable,
    "run": RunTable,
    "target": TargetTable,
    "defense": DefenseTable,
    "attack": AttackTable,
    "exclude": ExcludeTable,
}


def _fields_at(loc: Sequence[str | int]) -> list[str]:
    model = (
        FitTable
        if loc[:2] == ("protocol", "fit")
        else _TABLES.get(str(loc[0]))
        if loc
        else Document
    )
    return [name.replace("schema_", "schema") for name in (model.model_fields if model else {})]


def _expected(item: Mapping[str, Any]) -> str:
    known = {
        "int_type": "expected a whole number",
        "string_type": "expected a string in quotes",
        "bool_type": "expected true or false",
        "dict_type": "expected a table",
        "list_type": "expected a list",
        "model_type": "expected a table",
        "literal_error": f"expected {item.get('ctx', {}).get('expected', '')}",
    }
    kind, message = str(item["type"]), str(item["msg"])
    return known.get(kind, message[:1].lower() + message[1:])
