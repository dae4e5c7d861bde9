"""Reading plans: TOML text, what it extends, overrides from the command line, and where things stand in the file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import PlanError
from bench.plans import suites


def read_document(source: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str, Lines]:
    """A plan's document with everything it extends merged in and the overrides applied.

    Args:
        source: the name of a suite, or the path of a TOML file. overrides: "protocol.images=50" and the like.

    Returns:
        The document, what to call its place in messages, and where things stand in it.

    Raises:
        PlanError: there is no such plan, or it is no TOML.
    """
    text, place = read_text(source)
    document = _merged(_parse(text, place), place, seen=(_resolved(place),))
    for override in overrides:
        _override(document, override)
    return document, place, Lines(text)


def read_text(source: str) -> tuple[str, str]:
    """(text, place) of a suite or a file."""
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except FileNotFoundError as error:
            raise PlanError(
                f"there is no file {source}",
                hint="'gatebench list suites' shows the plans that come along",
            ) from error
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{source} cannot be read: {error}") from error
    found = suites.find(source)
    return found.read_text(encoding="utf-8"), f"suite {source}"


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{place} is no valid TOML: {error}") from error


def _merged(document: dict[str, Any], place: str, seen: tuple[str, ...]) -> dict[str, Any]:
    base = document.get("extends")
    if base is None:
        return dict(document)
    if not isinstance(base, str):
        raise PlanError(f"{place}: extends: expected the name of a suite or a file, got {base!r}")
    if base.endswith(".toml") and not place.startswith("suite "):
        base = str(Path(place).parent / base)
    text, base_place = read_text(base)
    now = _resolved(base_place)
    if now in seen:
        raise PlanError(f"{place}: extends: {' -> '.join([*seen, now])} goes round in a circle")
    below = _merged(_parse(text, base_place), base_place, (*seen, now))
    merged = dict(below)
    for key, value in document.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = {**below[key], **value} if both else value
    merged.pop("extends", None)
    return merged


def _resolved(place: str) -> str:
    """One name for a file, however it is reached."""
    return place if place.startswith("suite ") else str(Path(place).resolve())


def _override(document: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = [part.strip() for part in path.split(".")]
    if not equals or not all(keys):
        raise PlanError(f"--set {text}: expected key=value, for example --set protocol.images=50")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    place = document
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise PlanError(
                f"--set {text}: {key!r} is a list; only tables such as protocol and run can be set"
            )
    place[keys[-1]] = parsed


class Lines:
    """Where things stand in a TOML file: tomllib does not tell, so headers and keys are looked up."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        section, counts = "", dict[str, int]()
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if line.startswith("[["):
                name = line.strip("[] ").split("]")[0].strip()
                counts[name] = counts.get(name, -1) + 1
                section = f"{name}[{counts[name]}]"
                self._lines[section] = number
            elif line.startswith("["):
                name = line.strip("[] ").split("]")[0].strip()
                head, _, tail = name.partition(".")
                section = f"{head}[{counts[head]}].{tail}" if head in counts and tail else name
                self._lines[section] = number
            elif "=" in line and not line.startswith("#"):
                key = line.partition("=")[0].strip().strip('"')
                self._lines.setdefault(f"{section}.{key}" if section else key, number)

    def of(self, path: str) -> str:
        """ " (line 12)" for the nearest enclosing thing that is in the file, or ""."""
        while path:
            if path in self._lines:
                return f" (line {self._lines[path]})"
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return ""
