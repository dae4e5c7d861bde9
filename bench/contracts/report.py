"""What a report is: one contract for boards, one for two runs side by side, one for checks.

Each has its own group of entry points: `gatebench.reports`, `gatebench.comparisons` and
`gatebench.regressions`. Nothing here imports torch, and a report needs none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.regression.compare import Change, Comparison
    from bench.regression.verdict import CheckResult
    from bench.results.records import Board

SavedImages = Callable[["Change", Sequence[str]], Sequence[Mapping[str, tuple[bytes, bytes]]]]
"""(cell, image ids) -> for the first and the second run: id -> (clean, adversarial) as PNG bytes.
"""


class BoardReport(ABC):
    """Renders frozen boards; pure: the same boards give the same bytes.

    Required: `render`. Optional: `render_all`, for reports that make one whole of several boards.
    """

    @abstractmethod
    def render(self, board: Board, out: Path) -> None:
        """Write the report of one board.

        Args:
            board: what is shown.
            out: the folder to write into.

        Raises:
            GatebenchError: it cannot be written there.
        """

    def render_all(self, boards: Sequence[Board], out: Path) -> None:
        """Write the report of several boards; by default a numbered folder for each.

        Args:
            boards: what is shown, in order.
            out: the folder to write into.
        """
        if len(boards) == 1:
            self.render(boards[0], out)
            return
        for number, board in enumerate(boards, 1):
            self.render(board, out / f"{number:02d}")


class ComparisonReport(ABC):
    """Renders two runs side by side (`gatebench compare`); pure in what it returns.

    Required: all methods.
    """

    @abstractmethod
    def terminal(self, comparison: Comparison, names: tuple[str, str]) -> None:
        """Print the comparison.

        Args:
            comparison: what was found.
            names: of the two runs.
        """

    @abstractmethod
    def markdown(self, comparison: Comparison, names: tuple[str, str]) -> str:
        """The comparison as a comment on a pull request."""

    @abstractmethod
    def json(self, comparison: Comparison) -> str:
        """Everything, every image that changed included."""

    @abstractmethod
    def render(
        self,
        comparison: Comparison,
        names: tuple[str, str],
        pictures: SavedImages,
        out: Path,
        *,
        shown: int,
        version: str,
    ) -> None:
        """Write a page with pictures.

        Args:
            comparison: what was found.
            names: of the two runs.
            pictures: gives the saved images of a cell.
            out: the folder to write into.
            shown: images of each cell, those that changed most.
            version: of gatebench.
        """


class RegressionReport(ABC):
    """Renders the verdict of `gatebench check`; pure in what it returns. Required: all methods."""

    @abstractmethod
    def terminal(self, verdict: CheckResult) -> None:
        """Print the verdict."""

    @abstractmethod
    def markdown(self, verdict: CheckResult) -> str:
        """The verdict as a comment on a pull request."""

    @abstractmethod
    def junit(self, verdict: CheckResult) -> bytes:
        """The verdict as JUnit XML."""

    @abstractmethod
    def json(self, verdict: CheckResult) -> str:
        """The verdict with every comparison, in the order of the plan."""

    @abstractmethod
    def refused(self, message: str) -> tuple[bytes, str, str]:
        """(JUnit, JSON, Markdown) of a check that could not be made.

        Args:
            message: why, in one sentence or more.
        """
