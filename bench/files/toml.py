"""Writing the small TOML documents that people also read.

Strings, numbers, booleans, arrays and tables of those.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

_BARE = re.compile(r"[A-Za-z0-9_-]+")


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
