"""Documents of a run folder: JSON with a schema number, read into the frozen class that says what
they hold.

Whatever lies there, a reader gets that class with every field of its type, or one sentence that
names the file and the place in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from bench.errors import RunFolderError
from bench.files.atomic import write_atomic
from bench.files.regular import read_regular
from bench.files.writing import ELSEWHERE

SCHEMA = 1
"""Version of everything written to a run folder; a newer one is refused."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of MACs, images and so on; exact as a float, too."""
Natural = Annotated[int, Field(ge=1, le=2**53)]
"""A count that is never 0."""
Size = Annotated[float, Field(ge=0, le=1e15)]
"""A size, a time or a share that is never negative."""
Number = Annotated[float, Field(ge=-1e15, le=1e15)]
"""A number that can be computed with."""

T = TypeVar("T")


def write_json(path: Path, document: Any, *, elsewhere: str = ELSEWHERE) -> None:
    """Write a document, readable and reproducible.

    Args:
        path: of the file.
        document: to write.
        elsewhere: as `bench.files.atomic.write_atomic` takes it.
    """
    text = json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode() + b"\n", elsewhere=elsewhere)


def read_json(path: Path) -> dict[str, Any]:
    """Read a document of a run folder.

    Raises:
        RunFolderError: it is not there, damaged, or of a newer schema.
    """
    try:
        document = parse(read_regular(path))
    except FileNotFoundError as error:
        raise RunFolderError(
            f"{path} is not there", hint="a run folder holds plan.json and cells/; is this one?"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise RunFolderError(f"{path} is no document of gatebench")
    schema = document.get("schema", SCHEMA)
    if type(schema) is not int or schema < 1:
        raise RunFolderError(f"{path} is no document of gatebench: its schema is {schema!r:.40}")
    if schema > SCHEMA:
        raise RunFolderError(
            f"{path} has schema {schema}, this gatebench reads up to {SCHEMA}",
            hint="upgrade gatebench to read this run",
        )
    return document


def parse(data: bytes | str) -> Any:
    """JSON with finite numbers that fit into 64 bits, and no key twice in one table.

    Raises:
        ValueError, RecursionError: it is none.
    """
    try:
        return json.loads(
            data,  # of bytes, UTF-8 and UTF-16 are told apart, and a byte-order mark is left out
            object_pairs_hook=_table,
            parse_constant=_real,
            parse_int=_whole,
            parse_float=_real,
        )
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is no {error.encoding.upper()}") from None


def read_document(path: Path, kind: type[T], *, called: str) -> T:
    """Read a document into the frozen dataclass that says what it holds.

    Args:
        path: of the file.
        kind: the class; its fields are the document's, but for the schema number.
        called: what such a document is, for the message.

    Raises:
        RunFolderError: it is not there, damaged, of a newer schema, or does not fit `kind`.
    """
    document = read_json(path)
    document.pop("schema", None)
    try:
        return read_content(document, kind)
    except ValueError as error:
        raise RunFolderError(f"{path} is no {called}: {error}") from error


def read_content(document: Mapping[str, Any], kind: type[T]) -> T:
    """A document as the frozen dataclass that says what it holds.

    Raises:
        ValueError: it does not fit; says where and why, in one line.
    """
    try:
        held = _holder(kind).model_validate_json(json.dumps({"held": document}))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(f"{_place(first['loc'][1:])}: {first['msg']}") from error
    found: T = getattr(held, "held")  # noqa: B009 -- a field made at run time
    return found


_HOLDERS: dict[type[Any], type[BaseModel]] = {}


def _holder(kind: type[Any]) -> type[BaseModel]:
    """A model around a dataclass, whose strictness holds for everything inside; made once."""
    if kind not in _HOLDERS:
        strict = ConfigDict(extra="forbid", strict=True)
        _HOLDERS[kind] = create_model("Held", __config__=strict, held=(kind, ...))
    return _HOLDERS[kind]


def _place(steps: Sequence[str | int]) -> str:
    """A place in a document in words, `boards[0].cells[3].target`."""
    text = ""
    for step in steps:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text[:120] or "the document"


def _table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A table; two readers would read two documents where a key is there twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:60]!r} is there twice")
            seen.add(key)
    return found


def _real(text: str) -> float:
    """A finite number."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is no finite number")
    return value


def _whole(text: str) -> int:
    """A whole number that fits into 64 bits: no document of ours holds a larger one."""
    if len(text) > 20 or not -(2**63) <= int(text) < 2**63:
        raise ValueError(f"{text[:20]}… does not fit into 64 bits")
    return int(text)
