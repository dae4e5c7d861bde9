"""What a report is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Report(ABC):
    """Renders a frozen board. Pure: the same board gives the same bytes."""

    @abstractmethod
    def render(self, board: Any, out: Any) -> None:
        """Write the report of `board` (a `bench.results.board.Board`) into the folder `out` (a `pathlib.Path`)."""
