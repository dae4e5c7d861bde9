"""The closed schema of a plan, and its mistakes in words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import did_you_mean
from bench.plan import SCHEMA


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class ProtocolTable(_Strict):
    dataset: str
    images: int = 100
    batch: int = 32
    threat: Any
    budget: int | list[int] = 150
    seeds: list[int] = [0]
    audit: int = 4


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
    label: str | None = None


class ExcludeTable(_Strict):
    target: str | None = None
    defense: str | None = None
    attack: str | None = None
    reason: str


class Document(_Strict):
    schema_: int = SCHEMA
    extends: str | None = None
    protocol: ProtocolTable
    run: RunTable = RunTable()
    target: list[TargetTable] = []
    defense: list[DefenseTable] = []
    attack: list[AttackTable] = []
    exclude: list[ExcludeTable] = []


def read_tables(raw: Mapping[str, Any]) -> tuple[Document | None, list[tuple[str, str]]]:
    """The document in its schema, or its mistakes.

    Returns:
        (document, []) or (None, [(path, message), …]).
    """
    renamed = {"schema_" if key == "schema" else key: value for key, value in raw.items()}
    try:
        return Document.model_validate_json(json.dumps(renamed, default=str)), []
    except ValidationError as error:
        return None, [_problem(item) for item in error.errors()]


def _problem(item: Mapping[str, Any]) -> tuple[str, str]:
    path = _path(item["loc"])
    if item["type"] == "extra_forbidden":
        key = str(item["loc"][-1])
        return path, f"{path}: unknown key {key!r}{did_you_mean(key, _fields_at(item['loc'][:-1]))}"
    if item["type"] == "missing":
        return path, f"{path}: missing"
    return path, f"{path}: {_expected(item)}, got {item['input']!r}"


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
    model = _TABLES.get(str(loc[0])) if loc else Document
    return [name.replace("schema_", "schema") for name in (model.model_fields if model else {})]


def _expected(item: Mapping[str, Any]) -> str:
    return {
        "int_type": "expected a whole number",
        "string_type": "expected a string in quotes",
        "dict_type": "expected a table",
        "list_type": "expected a list",
        "model_type": "expected a table",
        "literal_error": f"expected {item.get('ctx', {}).get('expected', '')}",
    }.get(item["type"], item["msg"][:1].lower() + item["msg"][1:])
