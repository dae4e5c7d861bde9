"""What a plugin declares as class attributes, checked before anything builds on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.plugins.declarations import ClassFacts


def wrong_constant(facts: ClassFacts) -> str:
    """The first class attribute that is not of the kind its contract says, in words; "" if none.

    Example:
        >>> wrong_constant(ClassFacts("", {}, {"version": "two"}))
        "version = 'two': expected a whole number"
    """
    for name, (holds, expected) in _EXPECTED.items():
        value = facts.constants.get(name)
        if name in facts.constants and not _safely(holds, value):
            return f"{name} = {repr(value)[:80]}: expected {expected}"
    strange = [
        name for name in facts.constants.get("unkeyed_defaults", ()) if name not in facts.parameters
    ]
    return f"unkeyed_defaults names {strange[0]!r}, which is no parameter" if strange else ""


def _safely(holds: Callable[[Any], bool], value: Any) -> bool:
    """Whether it holds; a value whose own methods raise does not."""
    try:
        return holds(value)
    except Exception:  # a method of the plugin's own value; it is told as a wrong constant
        return False


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_end(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _are_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_text, value))


def _are_tables(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        _is_text(name) and _is_table(table) for name, table in value.items()
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) and all(map(_is_text, value))


def _are_ranges(value: Any) -> bool:
    return _is_table(value) and all(
        isinstance(ends, list | tuple) and len(ends) == 2 and all(map(_is_end, ends))
        for ends in value.values()
    )


def _are_members(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(one, list | tuple) and len(one) == 2 and _is_text(one[0]) and _is_table(one[1])
        for one in value
    )


def _are_sizes(value: Any) -> bool:
    return _is_table(value) and all(_is_whole(size) and size > 0 for size in value.values())


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 3
        and all(_is_whole(side) and side > 0 for side in value)
    )


_EXPECTED: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "version": (_is_whole, "a whole number"),
    "control": (_is_flag, "True or False"),
    "fits": (_is_flag, "True or False"),
    "randomised": (_is_flag, "True or False"),
    "access": (lambda value: value in ("gates", "macs"), '"gates" or "macs"'),
    "presets": (_are_tables, "a dictionary of dictionaries of parameters"),
    "ranges": (_are_ranges, "a dictionary of (least, most) of parameters"),
    "members": (_are_members, "a tuple of (name, dictionary of parameters)"),
    "unkeyed_defaults": (_are_texts, "a tuple of names of parameters"),
    "splits": (_are_texts, "a tuple of names"),
    "sizes": (_are_sizes, "a dictionary of the number of images of each split"),
    "image_shape": (_is_shape, "three whole numbers, (channels, height, width)"),
    "plan_check": (_is_text, '"module:function", or nothing'),
}
