"""Writing the small TOML documents that people also read, and reading settings in its notation.

Strings, numbers, booleans, arrays and tables of those.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import PlanError

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read_setting(text: str, example: str) -> tuple[str, Any]:
    """(key, value) of KEY=VALUE, the value in TOML's notation; what is none is a string.

    Args:
        text: as on the command line.
        example: what such a setting looks like.

    Raises:
        PlanError: there is no key, or the value is nested too deeply.

    Example:
        >>> read_setting("depth = 20", "depth=20"), read_setting("gate=ff", "depth=20")
        (('depth', 20), ('gate', 'ff'))
    """
    key, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not key:
        raise PlanError(f"--set {text}: expected KEY=VALUE, for example --set {example}")
    try:
        found = tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return key, value
    except (RecursionError, ValueError) as error:
        raise PlanError(f"--set {text[:200]}: the value cannot be read") from error
    return key, found["value"] if len(found) == 1 else value


def dump_tables(tables: Mapping[str, Mapping[str, object]], head: str = "") -> str:
    """A document of tables, in order, that `tomllib` reads back as it was; None is left out.

    Args:
        tables: name -> keys and values.
        head: comment lines at the top, without "#".
    """
    lines = [f"# {line}".rstrip() for line in head.splitlines()]
    for name, table in tables.items():
        lines += ["", f"[{dump_key(name)}]"] if lines else [f"[{dump_key(name)}]"]
        lines += [
            f"{dump_key(key)} = {dump_value(value)}"
            for key, value in table.items()
            if value is not None
        ]
    return "\n".join(lines) + "\n"


def dump_key(key: str) -> str:
    """A key, quoted where it has to be."""
    return key if _BARE.fullmatch(key) else _text(key)


def dump_value(value: object) -> str:
    """One value; a table is written inline.

    Raises:
        TypeError: of a type that has no place in such a document.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{dump_key(str(key))} = {dump_value(one)}" for key, one in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return "[" + ", ".join(dump_value(one) for one in value) + "]"
    raise TypeError(f"{type(value).__name__} cannot be written as TOML")


def _text(value: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for DEL, which JSON leaves bare."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def dump_document(document: Mapping[str, object]) -> str:
    """A document of plain keys, tables and lists of tables, such as a plan.

    What is deeper inside a table stands inline.
    """
    plain, tables, lists = [], [], []
    for key, value in document.items():
        if isinstance(value, Mapping):
            tables += ["", f"[{dump_key(key)}]", *_pairs(value)]
        elif (
            isinstance(value, Sequence)
            and value
            and all(isinstance(item, Mapping) for item in value)
        ):
            for item in value:
                lists += ["", f"[[{dump_key(key)}]]", *_pairs(item)]
        else:
            plain.append(f"{dump_key(key)} = {dump_value(value)}")
    return "\n".join([*plain, *tables, *lists]) + "\n"


def _pairs(table: Mapping[str, object]) -> list[str]:
    return [
        f"{dump_key(key)} = {dump_value(value)}"
        for key, value in table.items()
        if value is not None
    ]
