"""What a label may be: what people can read, and can tell apart from the others."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from bench.terminal import printable


def wrong_label(label: str) -> str:
    """What is wrong with a label, in words; "" for nothing."""
    if printable(label).replace("\n", "\\n") != label:
        return "holds characters that cannot be shown"
    return "" if label.strip() else "is blank"


def as_seen(label: str) -> str:
    """Equal for labels that people can hardly tell apart: other forms, and marks without width."""
    plain = unicodedata.normalize("NFKC", label)
    return " ".join("".join(c for c in plain if unicodedata.category(c) != "Cf").split())


def check_labels(labels: Iterable[str]) -> None:
    """Refuse labels of different things that cannot be shown, or that look alike.

    Raises:
        ValueError: naming the label.
    """
    seen: dict[str, str] = {}
    for label in labels:
        if wrong := wrong_label(label):
            raise ValueError(f"the label {label[:60]!r} {wrong}")
        if (twin := seen.setdefault(as_seen(label), label)) != label:
            raise ValueError(f"the label {label[:60]!r} looks like {twin[:60]!r}")
