"""The plan reference, from the schema that plans are read with."""

from __future__ import annotations

import types
import typing
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from bench.plans import schema

TITLES: dict[type[BaseModel], str] = {
    schema.Document: "Top of the file",
    schema.ProtocolTable: "[protocol]",
    schema.FitTable: "[protocol.fit]",
    schema.RunTable: "[run]",
    schema.TargetTable: "[[target]]",
    schema.DefenseTable: "[[defense]]",
    schema.AttackTable: "[[attack]]",
    schema.ExcludeTable: "[[exclude]]",
}
"""The tables in the order of the page; single brackets stand once, double ones repeat."""

HEAD = """\
# Plan reference

A plan is a TOML file; `gatebench plan FILE` shows what it comes to, and lists every mistake with
its line. This page is generated from the schema (`bench/plans/schema.py`). Other keys are refused.
Any key of a single table can be set on the command line: `--set protocol.images=50`.

In a list of tables, such as `[[attack]]`, every entry is a table of its own. Under `extends`, keys
of single tables are merged one by one (`[protocol.fit]` as a whole); a list of tables replaces the
one it extends.
"""

THREATS = """\
## Threats

What a saved 8-bit image may change, as an exact integer bound on D = 255 (x' - x).

| in a plan | bound |
|---|---|
| `{ norm = "linf", eps = "8/255" }` | max abs(D) ≤ floor(255 eps) |
| `{ norm = "l2", eps = "1/2" }` | sum D² ≤ floor((255 eps)²) |
| `{ norm = "psnr", floor = 35 }` | sum D² ≤ floor(n 255² 10^(-floor / 10)), for n values an image |
| `{ patch = 8 }` | D = 0 outside one square of 8 pixels a side |
| `"none"` | none but [0, 1]; the board then shows fronts and ranks nothing |

`eps` is a fraction in quotes, in units of the [0, 1] range. `floor` is in dB.
"""


def render() -> str:
    """The page as Markdown."""
    parts = [HEAD]
    for model, title in TITLES.items():
        rows = [_row(name, field) for name, field in model.model_fields.items()]
        parts.append(
            f"## {title}\n\n{(model.__doc__ or '').strip()}\n\n"
            "| key | type | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join([*parts, THREATS])


def _row(name: str, field: Any) -> str:
    default = "required" if field.default is PydanticUndefined else _toml(field.default)
    cells = f"`{name.rstrip('_')}`", _type(field.annotation), default, field.description or ""
    return "| " + " | ".join(cells) + " |"


def _toml(value: Any) -> str:
    if isinstance(value, BaseModel) or value in ({}, []) or value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def _type(annotation: Any) -> str:
    """A type in the words of TOML."""
    if annotation is Any:
        return "threat"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(part) for part in inner if part is not types.NoneType)
    if origin is typing.Literal:
        return " or ".join(f'`"{part}"`' for part in inner)
    if origin is list:
        name = _type(inner[0])
        return (
            "list of tables"
            if name == "table"
            else "list"
            if name == "threat"
            else f"list of {name}s"
        )
    if origin is dict:
        return "table of lists" if typing.get_origin(inner[1]) is list else "table"
    return {int: "integer", str: "string", bool: "boolean", float: "number"}[annotation]
