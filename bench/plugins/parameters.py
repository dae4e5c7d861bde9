"""Parameters of targets, attacks and defences: strictly of their declared types, over the defaults."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from pydantic import ConfigDict, ValidationError, create_model

from bench.errors import PlanError, did_you_mean
from bench.plugins.declarations import REQUIRED, Parameter

Ranges = Mapping[str, tuple[float | None, float | None]]
"""Parameter -> (least, most) that it may be, None where there is no such bound; in a list, each of its numbers."""


def resolve_params(
    parameters: Mapping[str, Parameter],
    given: Mapping[str, Any],
    where: str,
    ranges: Ranges | None = None,
) -> dict[str, Any]:
    """All parameters of a class: the given ones, strictly of their declared types and within their ranges, over the defaults.

    Raises:
        PlanError: with every unknown name, wrong type, missing value and value out of range, each with its place.
    """
    problems = [
        f"{where}.{name}: unknown parameter {name!r}{did_you_mean(name, parameters)}"
        for name in given
        if name not in parameters
    ]
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is REQUIRED else parameter.default)
        for name, parameter in parameters.items()
    }
    model = create_model(
        "Parameters", __config__=ConfigDict(strict=True, protected_namespaces=()), **fields
    )
    infinite = {
        name: value
        for name, value in given.items()
        if isinstance(value, float) and not math.isfinite(value)
    }
    problems += [
        f"{where}.{name}: expected a finite number, got {value!r}"
        for name, value in infinite.items()
        if name in parameters
    ]
    known = {
        name: value for name, value in given.items() if name in parameters and name not in infinite
    }
    resolved: dict[str, Any] = {}
    try:
        resolved = json.loads(
            model.model_validate_json(
                json.dumps(known, default=str, allow_nan=False)
            ).model_dump_json()
        )
    except ValueError as error:
        details = error.errors() if isinstance(error, ValidationError) else []
        kinds: dict[str, str] = {}
        for item in details:
            kinds.setdefault(str(item["loc"][0]), item["type"])
        for name, kind in kinds.items():
            if kind == "missing":
                problems.append(f"{where}.{name}: missing; expected {parameters[name].describe()}")
            else:
                problems.append(
                    f"{where}.{name}: expected {parameters[name].describe()}, got {known[name]!r}"
                )
        if not details:
            problems.append(f"{where}: {error}")
    for name, (least, most) in (ranges or {}).items():
        values = resolved.get(name)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            if (
                not (-math.inf if least is None else least)
                <= value
                <= (math.inf if most is None else most)
            ):
                problems.append(f"{where}.{name}: {_range(least, most)}, got {value!r}")
    if problems:
        raise PlanError(problems)
    return resolved


def _range(least: float | None, most: float | None) -> str:
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"between {least} and {most}"


def seconds(value: str | int, where: str) -> float:
    """600.0 from "10m", "600s", "0.2h" or 600.

    Raises:
        PlanError: it is no duration above zero.
    """
    if isinstance(value, str):
        scale = {"s": 1, "m": 60, "h": 3600}.get(value[-1:].lower())
        try:
            amount = float(value[:-1]) * scale if scale else float(value)
        except ValueError:
            amount = -1.0
    else:
        amount = float(value)
    if not 0 < amount < 1e9:
        raise PlanError(f'{where}: expected a duration such as "10m" or "90s", got {value!r}')
    return amount
