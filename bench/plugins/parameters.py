"""Parameters of plugins: strictly of their declared types, over the defaults."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from bench.errors import PlanError, did_you_mean
from bench.plugins.declarations import REQUIRED, Parameter

Ranges = Mapping[str, tuple[float | None, float | None]]
"""Parameter -> (least, most) that it may be, None where there is no such bound; in a list, each of
its numbers."""


def as_arguments(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters from a document as the class takes them: arrays become tuples."""
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in params.items()
    }


def resolve_params(
    parameters: Mapping[str, Parameter],
    given: Mapping[str, Any],
    where: str,
    ranges: Ranges | None = None,
) -> dict[str, Any]:
    """All parameters of a class: the given ones over the defaults.

    Args:
        parameters: that the class declares, by name.
        given: values by name, as read from TOML.
        where: path of the values in messages.
        ranges: that the class declares.

    Raises:
        PlanError: with every unknown name, wrong type, missing value and value out of range, each
            with its place.
    """
    problems = []
    known: dict[str, Any] = {}
    for name, value in given.items():
        if name not in parameters:
            near = did_you_mean(name, parameters)
            problems.append(f"{where}.{name}: unknown parameter {name!r}{near}")
        elif isinstance(value, float) and not math.isfinite(value):
            problems.append(f"{where}.{name}: expected a finite number, got {value!r}")
        else:
            known[name] = value
    resolved: dict[str, Any] = {}
    try:
        text = json.dumps(known, default=str, allow_nan=False)
        resolved = json.loads(_model(parameters).model_validate_json(text).model_dump_json())
    except ValidationError as error:
        problems += _wrong_types(error, parameters, known, where)
    except ValueError as error:
        problems.append(f"{where}: {error}")
    problems += _out_of_range(resolved, ranges or {}, where)
    if problems:
        raise PlanError(problems)
    return resolved


def _model(parameters: Mapping[str, Parameter]) -> type[BaseModel]:
    """A model of these parameters; made once for a class, since a sweep asks often."""
    try:
        return _cached_model(tuple(parameters.values()))
    except TypeError:  # a default or a type that cannot be hashed
        return _new_model(tuple(parameters.values()))


def _new_model(parameters: tuple[Parameter, ...]) -> type[BaseModel]:
    fields: dict[str, Any] = {
        one.name: (one.annotation, ... if one.default is REQUIRED else one.default)
        for one in parameters
    }
    config = ConfigDict(strict=True, protected_namespaces=())
    return create_model("Parameters", __config__=config, **fields)


_cached_model = functools.lru_cache(maxsize=256, typed=True)(_new_model)


def _wrong_types(
    error: ValidationError,
    parameters: Mapping[str, Parameter],
    known: Mapping[str, Any],
    where: str,
) -> Iterator[str]:
    kinds: dict[str, str] = {}
    for item in error.errors():
        kinds.setdefault(str(item["loc"][0]) if item["loc"] else "", item["type"])
    for name, kind in kinds.items():
        if name not in parameters:
            yield f"{where}: cannot be read ({kind.replace('_', ' ')})"
        elif kind == "missing":
            yield f"{where}.{name}: missing; expected {parameters[name].describe()}"
        else:
            yield f"{where}.{name}: expected {parameters[name].describe()}, got {known[name]!r}"


def _out_of_range(resolved: Mapping[str, Any], ranges: Ranges, where: str) -> Iterator[str]:
    for name, (least, most) in ranges.items():
        values = resolved.get(name)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, int | float) or isinstance(value, bool):
                continue
            low = -math.inf if least is None else least
            high = math.inf if most is None else most
            if not low <= value <= high:
                yield f"{where}.{name}: {_range(least, most)}, got {value!r}"


def _range(least: float | None, most: float | None) -> str:
    if most is None:
        return f"at least {least}"
    return f"at most {most}" if least is None else f"between {least} and {most}"


def seconds(value: str | int, where: str) -> float:
    """600.0 from "10m", "600s", "0.2h" or 600.

    Raises:
        PlanError: it is no duration above zero.
    """
    amount = -1.0
    try:
        if isinstance(value, str):
            scale = {"s": 1, "m": 60, "h": 3600}.get(value[-1:].lower())
            amount = float(value[:-1]) * scale if scale else float(value)
        else:
            amount = float(value)
    except (ValueError, OverflowError):
        pass
    if not 0 < amount < 1e9:
        raise PlanError(f'{where}: expected a duration such as "10m" or "90s", got {value!r}')
    return amount
