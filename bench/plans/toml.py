"""Reading plans: TOML text, what it extends, overrides, and where things stand in the file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral, Rational, Real
from pathlib import Path
from typing import Any

from bench.errors import PlanError
from bench.files.regular import read_regular
from bench.files.text import text_of
from bench.plans import suites
from bench.terminal import one_line

LARGEST_FILE = 4 * 2**20
"""Bytes of a plan that are read."""
DEEPEST = 12
"""Tables and lists inside each other; a plan needs five."""
MOST_VALUES = 200_000
"""Values in a plan that a program holds; one that holds itself has no end of them."""
LONGEST_CHAIN = 16
"""Plans that extend each other, one after the other."""
LARGEST_NUMBER = 2**63


@dataclass
class PlanSource:
    """A plan as it was written.

    Attributes:
        document: with everything that it extends merged in, and the overrides applied.
        place: what to call it in messages.
        lines: where things stand in its file.
        problems: (path, message) of what was wrong so far; what was wrong is left out.
        incomplete: whether something that it extends could not be read, so that what is missing in
            the document is not the author's fault.
    """

    document: dict[str, Any]
    place: str
    lines: LineNumbers
    problems: list[tuple[str, str]] = field(default_factory=list)
    incomplete: bool = False


def read_source(source: str, overrides: Sequence[str] = ()) -> PlanSource:
    """Read a plan.

    Args:
        source: the name of a suite, or the path of a TOML file.
        overrides: "protocol.images=50" and the like.

    Raises:
        PlanError: there is no such plan, or it is no TOML.
    """
    text, place = read_text(source)
    found = PlanSource(_parse(text, place), place, LineNumbers(text))
    _extend(found)
    for override in overrides:
        try:
            _override(found.document, override)
        except PlanError as error:
            found.problems.append(("", error.message))
    found.problems += list(_prune(found.document))
    return found


def source_of(document: Mapping[Any, Any], name: str) -> PlanSource:
    """A plan that a program holds; it is copied.

    Args:
        document: what a TOML file would hold; tuples and numbers of numpy are taken too.
        name: what to call it.

    Raises:
        PlanError: it has too many values.
    """
    copied = _plain(document, 0, iter(range(MOST_VALUES)))
    return PlanSource(copied, name, LineNumbers(""), list(_prune(copied)))


def _plain(value: Any, depth: int, left: Iterator[int]) -> Any:
    """A value of a program as TOML would give it, where it has such values; what is nested too deep
    stays as it is, for `_prune` to name. `left` has an entry for every value that there may be."""
    if next(left, None) is None:
        raise PlanError(
            f"the plan has more than {MOST_VALUES:,} values", hint="does a table hold itself?"
        )
    if isinstance(value, Mapping) and depth <= DEEPEST:
        return {
            str(key).encode(errors="replace").decode(): _plain(inner, depth + 1, left)
            for key, inner in value.items()
        }
    if isinstance(value, list | tuple) and depth <= DEEPEST:
        return [_plain(inner, depth + 1, left) for inner in value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, Rational):
        return float(value)
    return value


def read_text(source: str) -> tuple[str, str]:
    """(text, place) of a suite or a file.

    Raises:
        PlanError: it is not there, or is no text of a sensible size.
    """
    path, shown = Path(source), one_line(source, 200)
    try:
        if path.suffix == ".toml" or path.is_file():
            return text_of(_read(path)), str(path)
    except FileNotFoundError as error:
        raise PlanError(
            f"there is no file {shown}",
            hint="'gatebench list suites' shows the plans that come along",
        ) from error
    except (OSError, ValueError) as error:  # a null byte in a path is a ValueError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PlanError(f"{shown} cannot be read: {reason}") from error
    found = suites.find(source)
    return found.read_text(encoding="utf-8"), f"suite {source}"


def _read(path: Path) -> bytes:
    return read_regular(path, LARGEST_FILE)


def _parse(text: str, place: str) -> dict[str, Any]:
    """The document in `text`.

    Raises:
        PlanError: it is no TOML, is nested too deeply, or holds a number with too many digits.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{place} is no valid TOML: {error}") from error
    except RecursionError as error:
        raise PlanError(f"{place} is nested too deeply") from error
    except ValueError as error:
        raise PlanError(f"{place} cannot be read: {error}") from error


def _extend(source: PlanSource) -> None:
    """Merge in what a plan extends; a problem there is noted, and the plan stands alone."""
    chain, seen = [source.document], [_resolved(source.place)]
    place = source.place
    try:
        while "extends" in chain[-1]:
            text, place = read_text(_base(chain[-1]["extends"], place))
            now = _resolved(place)
            if now in seen:
                raise PlanError(f"{' -> '.join([*seen, now])} goes round in a circle")
            if len(seen) == LONGEST_CHAIN:
                raise PlanError(f"more than {LONGEST_CHAIN} plans, one after the other")
            seen.append(now)
            chain.append(_parse(text, place))
    except PlanError as error:
        source.incomplete = True
        source.problems.append(("extends", error.message))
    merged: dict[str, Any] = {}
    for document in reversed(chain):
        for key, value in document.items():
            below = merged.get(key)
            both = isinstance(value, dict) and isinstance(below, dict)
            merged[key] = {**below, **value} if both and below is not None else value
    merged.pop("extends", None)
    source.document = merged


def _base(name: object, place: str) -> str:
    """What a plan at `place` means by `extends = name`."""
    if not isinstance(name, str):
        raise PlanError(f"expected the name of a suite or a file, got {_kind(name)}")
    if name.endswith(".toml") and not place.startswith("suite "):
        return str(Path(place).parent / name)
    return name


def _resolved(place: str) -> str:
    """One name for a file, however it is reached."""
    return place if place.startswith("suite ") else str(Path(place).resolve())


def _override(document: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = [part.strip() for part in path.split(".")]
    if not equals or not all(keys):
        raise PlanError(f"--set {text}: expected key=value, for example --set protocol.images=50")
    if keys[0] == "extends":
        raise PlanError(f"--set {text}: what a plan extends is written in the plan itself")
    if len(keys) > DEEPEST:
        raise PlanError(f"--set {text}: more than {DEEPEST} keys, one inside the other")
    try:
        found = tomllib.loads(f"value = {value}")
        parsed = found["value"] if len(found) == 1 else value.strip()
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    except (RecursionError, ValueError) as error:
        raise PlanError(f"--set {text}: the value cannot be read") from error
    place = document
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise PlanError(
                f"--set {text}: {key!r} is {_kind(place)}; only tables such as protocol and run "
                "can be set"
            )
    place[keys[-1]] = parsed


def _prune(document: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Take out what nothing below here should have to cope with, and say what it was."""
    waiting: list[tuple[str, Any, int]] = [("", document, 0)]
    while waiting:
        path, at, depth = waiting.pop()
        is_table = isinstance(at, dict)
        items: list[tuple[Any, Any]] = list(at.items() if is_table else enumerate(at))
        for key, value in items:
            inner = f"{path}[{key}]" if not is_table else f"{path}.{key}" if path else str(key)
            if isinstance(value, dict | list):
                if depth + 1 < DEEPEST:
                    waiting.append((inner, value, depth + 1))
                    continue
                yield inner, f"nested deeper than {DEEPEST} tables and lists"
            elif isinstance(value, int) and not -LARGEST_NUMBER <= value < LARGEST_NUMBER:
                yield inner, "a whole number beyond 64 bits"
            elif isinstance(value, str) and value != value.encode(errors="replace").decode():
                yield inner, "half of a surrogate pair, which is no character"
            else:
                continue
            at[key] = type(value)() if isinstance(value, dict | list | str) else 1


def _kind(value: object) -> str:
    """What a value is, in TOML's words."""
    names = {dict: "a table", list: "a list", str: "a string", bool: "true or false"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else "a date")


class LineNumbers:
    """Where things stand in a TOML file; tomllib does not tell, so headers and keys are looked up.

    Args:
        text: of the file.
    """

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
        """` (line 12)` for the nearest enclosing thing that is in the file, or nothing."""
        while path:
            if path in self._lines:
                return f" (line {self._lines[path]})"
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return ""
