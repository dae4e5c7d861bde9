"""The closed schema of a plan, and its mistakes in words."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.contracts.cell import SCHEMA, Precision
from bench.errors import did_you_mean


class _Strict(BaseModel):
    """A table of a plan: unknown keys are refused, values are not converted."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class FitTable(_Strict):
    """For attacks and defenses that learn something first, from images that are never scored."""

    split: str = "train"
    """The split the images are from; not the one that is scored."""
    images: int = 256
    """How many images, at least 1."""
    budget: int = 30
    """Forward-equivalents an image, at least 1."""


class ProtocolTable(_Strict):
    """What makes rows comparable; every combination of threat, budget and seed is a board."""

    dataset: str
    """`"NAME:SPLIT"`, for example `"digits-m:test"`; `gatebench list datasets` shows the names."""
    images: int = 100
    """How many images, at least 1: the first ones in a fixed order (by hash of the id)."""
    batch: int | Literal["auto"] = "auto"
    """Images evaluated together, at least 1; another batch is another board. "auto" is 32, and on a
    GPU as many 32s as the images fill, at most 256."""
    threat: Any
    """What a saved image may change; see [Threats](#threats). A list makes one board each."""
    budget: int | list[int] = 150
    """Forward-equivalents an image: a forward is 1, a backward 2. A list makes one board each."""
    seeds: list[int] = [0]
    """Seeds of all random draws; one board each."""
    audit: int = 4
    """Images of every cell whose execution is counted by ptflops, at least 1."""
    precision: Precision = "float32"
    """What gradient passes of attacks compute in: `"float32"`, `"tf32"` (on NVIDIA GPUs from Ampere
    on) or `"bf16"`; another one is another board. Decisions, scores, audits stay in float32."""
    fit: FitTable = FitTable()
    """See [`[protocol.fit]`](#protocolfit)."""


class RunTable(_Strict):
    """How the plan is computed; nothing here changes a result, except `device` and `threads`."""

    device: str = "auto"
    """`"auto"`, `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`; auto takes a GPU that torch reaches by
    CUDA, else the CPU."""
    shard: int = 1
    """Images computed, stored and resumed together: as many whole batches as fit, at least one. So
    by default a run that was killed loses at most the batches that were being computed."""
    deadline: str | int = "10m"
    """The time a shard may take: seconds, or a text such as `"90s"`, `"10m"`, `"2h"`."""
    workers: int | Literal["auto"] = "auto"
    """Processes that compute at a time; auto is one a GPU, on a CPU as many as cores allow."""
    threads: int = 1
    """CPU threads a worker."""
    executor: str = "local"
    """What computes the shards, by name."""


class TargetTable(_Strict):
    """A network to attack; one table each."""

    use: str
    """Its name; `gatebench list targets` shows them."""
    params: dict[str, Any] = {}
    """Its parameters; `gatebench list targets NAME` shows them. Weights bring theirs along."""
    weights: str
    """The name of trained weights, or `"random:SEED"` for a seeded initialization."""
    label: str | None = None
    """How its rows are called; by default the name of its weights."""


class DefenseTable(_Strict):
    """A defense, put around every target; targets without it are always in the plan too."""

    use: str
    """Its name; `gatebench list defenses` shows them."""
    params: dict[str, Any] = {}
    """Its parameters; `gatebench list defenses NAME` shows them."""
    label: str | None = None
    """How its rows are called; by default its name."""


class AttackTable(_Strict):
    """An attack, run on every target with and without its defenses; one table each."""

    use: str
    """Its name, or `"NAME:PRESET"`; `gatebench list attacks` shows them. A class that is not
    installed is `"MODULE:CLASS"`, looked up in the working folder too; so are others."""
    params: dict[str, Any] = {}
    """Its parameters; `gatebench list attacks NAME` shows them. They override the preset's."""
    sweep: dict[str, list[Any]] = {}
    """Parameters with a list of values each; every combination is an attack of its own."""
    behind: list[str] | None = None
    """Labels of defenses; the attack then runs behind these alone."""
    label: str | None = None
    """How its rows are called; by default its name, with what the sweep put into it."""


class ExcludeTable(_Strict):
    """Cells to leave out; all of the labels that are given must match."""

    target: str | None = None
    """Label of a target."""
    defense: str | None = None
    """Label of a defense."""
    attack: str | None = None
    """Label of an attack."""
    reason: str
    """Why; shown on the board."""


class Document(_Strict):
    """The top of the file, above its tables."""

    schema_: int = SCHEMA
    """Version of this format; written `schema`."""
    extends: str | None = None
    """A suite, or the path of a plan, that this one changes: its lists of tables are replaced."""
    paper: str | None = None
    """A paper whose published values are shown beside the measured ones."""
    audits: bool = False
    """Whether the report gets a page on how the paper's numbers were counted."""
    headroom: int = 0
    """Images, of each board's first ones, on which `gatebench run` ends with reference runs: the
    strongest attack on each target again, with ten times the budget. 0 leaves them out."""
    protocol: ProtocolTable
    """See [`[protocol]`](#protocol)."""
    run: RunTable = RunTable()
    """See [`[run]`](#run)."""
    target: list[TargetTable] = []
    """See [`[[target]]`](#target)."""
    defense: list[DefenseTable] = []
    """See [`[[defense]]`](#defense)."""
    attack: list[AttackTable] = []
    """See [`[[attack]]`](#attack)."""
    exclude: list[ExcludeTable] = []
    """See [`[[exclude]]`](#exclude)."""


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
    """Where in the document a mistake is, without pydantic's words for the members of a union."""
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
    first_of, *others = expected
    wanted = " or ".join([first_of, *(text.removeprefix("expected ") for text in others)])
    return path, f"{path}: {wanted}, got {first['input']!r}"


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
