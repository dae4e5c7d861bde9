"""Tables for a comment on a pull request; foreign text is never read as Markdown or HTML."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reports.html.encode import clean

Column = tuple[str, bool]
"""(head, whether numeric)."""


def markdown(
    title: str,
    lead: str,
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    notes: Sequence[str],
) -> str:
    """A heading, a sentence, a table, and notes as a list.

    Args:
        rows: one entry a column.
    """
    parts = [f"### {escape(title)}", escape(lead)]
    if rows:
        heads = " | ".join(escape(head) for head, _ in columns)
        rule = " | ".join("---:" if numeric else "---" for _, numeric in columns)
        lines = [f"| {' | '.join(escape(entry) for entry in row)} |" for row in rows]
        parts.append("\n".join([f"| {heads} |", f"| {rule} |", *lines]))
    if notes:
        parts.append("\n".join(f"- {escape(note)}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def escape(text: str) -> str:
    """One line in which nothing is markup: punctuation escaped, `<`, `>` and `&` as entities, no
    name that would notify somebody.
    """
    line = " ".join(clean(text).split())
    line = (
        line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("@", "&#64;")
    )
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", line)
