"""What a foreign string goes through before it stands on a page: control characters, JSON, links.

Labels, reasons, unit names and the like come from plugins. HTML escaping is the template engine's
affair (always on); here lies the rest.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from bench.files.links import safe_link as safe_link

_KEEP = "\n\t"
_DROPPED = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff"
)
_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def clean(text: str) -> str:
    """The text without control characters, marks that reorder what is read, what XML forbids, and
    halves of characters.

    Line feeds and tabs stay. A lone surrogate cannot be written as UTF-8 and becomes U+FFFD.
    """
    if text.isascii() and text.isprintable():
        return text
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category == "Cs":
            kept.append("\ufffd")
        elif character in _KEEP or (category != "Cc" and character not in _DROPPED):
            kept.append(character)
    return "".join(kept)


def clean_tree(value: Any) -> Any:
    """Plain data (dict, list, str, int, float, bool, None) with every string cleaned and every
    other thing written out.

    Numbers that JSON cannot hold (NaN, infinities) become their names, so that "unmeasured" never
    turns into "missing".
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): clean_tree(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [clean_tree(entry) for entry in value]
    if isinstance(value, set | frozenset):
        return sorted(clean(str(entry)) for entry in value)
    return clean(str(value))


def encode_json(value: Any) -> str:
    """JSON in ASCII that can lie inside a script element: no `<`, `>` or `&` in it, sorted keys, no
    NaN.
    """
    text = json.dumps(
        value, ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":")
    )
    return text.translate(_IN_SCRIPT)


def json_block(value: Any) -> Markup:
    """`encode_json` for a template, to stand in `<script type="application/json">`.

    The one place where something is declared safe: what the encoder lets through holds no character
    that HTML knows.
    """
    return Markup(encode_json(clean_tree(value)))


def split_links(text: str) -> list[tuple[str, str | None]]:
    """A line as (text, link or None) pieces, so that addresses in credits can be followed."""
    pieces: list[tuple[str, str | None]] = []
    for piece in re.split(r"((?:https?://|mailto:)[^\s<>\"')\]]+)", clean(text)):
        if piece:
            pieces.append((piece, safe_link(piece)))
    return pieces
