"""Collecting the mistakes of a plan, each once, with its place in the file."""

from __future__ import annotations

from bench.plans.toml import LineNumbers


class Problems:
    """The mistakes found so far.

    Args:
        place: what the plan is called in messages.
        lines: where things stand in it.
    """

    def __init__(self, place: str, lines: LineNumbers) -> None:
        self._place = place
        self._lines = lines
        self._found: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, path: str, message: str) -> None:
        """Note a mistake.

        Args:
            path: of what is wrong in the document, such as "attack[2].params"; "" for none.
            message: what is wrong; it may begin with the path.
        """
        text = message if message.startswith(path) else f"{path}: {message}"
        self._found.setdefault(f"{self._place}{self._lines.of(path)}: {text}" if path else text)

    def all(self) -> list[str]:
        """All mistakes, in the order in which they were found."""
        return list(self._found)
