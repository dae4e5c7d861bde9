"""What an evaluation or a run came to, for programs, tests and notebooks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.terminal import counted, percent

if TYPE_CHECKING:
    from PIL.Image import Image

    from bench.python.image_table import ImageTable
    from bench.results.records import Board, BoardCell
    from bench.results.stats import Estimate


@dataclass(frozen=True, repr=False)
class Result:
    """What a run came to: judged numbers, the rows of all images, and pictures.

    An estimate has `value`, and the ends `low` and `high` of its 95 % interval; None where it is
    undefined. Where there are several attacks, the single numbers are those of the strongest.

    Attributes:
        folder: of the run, for `gatebench show`, `report`, `compare` and `verify`.
        boards: as reports see them, one a protocol.
    """

    folder: Path
    boards: tuple[Board, ...]

    @property
    def cells(self) -> tuple[BoardCell, ...]:
        """Every cell that has numbers."""
        return tuple(cell for board in self.boards for cell in board.cells if cell.status == "ok")

    @property
    def problems(self) -> tuple[str, ...]:
        """Which cells have no numbers, and why; skipped ones among them."""
        return tuple(
            f"{cell.label}: {cell.status}, {cell.reason}"
            for board in self.boards
            for cell in board.cells
            if cell.status != "ok"
        )

    @property
    def strongest(self) -> BoardCell:
        """The cell with the smallest surviving saving.

        A control only where nothing else was asked for.
        """
        if not self.cells:
            raise ValueError("no cell of this run has numbers: every attack skipped this target")
        return min(
            [cell for cell in self.cells if not cell.control] or self.cells,
            key=lambda cell: (
                cell.surviving_saving.value if cell.surviving_saving.value is not None else 1.0
            ),
        )

    @property
    def surviving_saving(self) -> Estimate:
        """1 - MACs / undefended ceiling under the strongest attack."""
        return self.strongest.surviving_saving

    @property
    def clean_saving(self) -> Estimate:
        """The same on clean images."""
        return self.strongest.clean_saving

    @property
    def recovery(self) -> Estimate:
        """Share of the clean saving that the strongest attack won back."""
        return self.strongest.recovery

    @property
    def clean_accuracy(self) -> Estimate:
        """Share of clean images classified rightly."""
        return self.strongest.clean_accuracy

    @property
    def adversarial_accuracy(self) -> Estimate:
        """Share of the strongest attack's images classified rightly."""
        return self.strongest.adversarial_accuracy

    def cell(self, attack: str) -> BoardCell:
        """The cell of an attack, by its label.

        Args:
            attack: the label, or that of the whole cell ("TARGET / ATTACK") where several targets
                were attacked.

        Raises:
            KeyError: none or several of the cells with numbers are called that.
        """
        found = [cell for cell in self.cells if attack in (cell.attack, cell.label)]
        if len(found) != 1:
            known = ", ".join(cell.label for cell in self.cells)
            raise KeyError(
                f"{counted(len(found), 'cell')} are called {attack!r}; there are {known}"
            )
        return found[0]

    def rows(self, attack: str | None = None) -> ImageTable:
        """The numbers of every image as a table; pictures are not read.

        Args:
            attack: whose, as in `cell`; the strongest one's unless given.
        """
        from bench.python.image_table import ImageTable

        return ImageTable.of(self._one(attack))

    def picture(
        self, image: int | str = 0, attack: str | None = None, *, width: int = 192
    ) -> Image:
        """The clean image, the saved adversarial one, and what was changed, side by side.

        The difference is amplified as far as it goes; gray is no change.

        Args:
            image: its place in `rows`, or its id.
            attack: whose, as in `cell`; the strongest one's unless given.
            width: pixels that each of the three is at least wide.

        Raises:
            KeyError: no image has that id.
            IndexError: there are fewer images.
        """
        cell = self._one(attack)
        if isinstance(image, str):
            ids = cell.table().ids
            if image not in ids:
                raise KeyError(f"no image has the id {image!r}; the first is {ids[0]!r}")
            place = ids.index(image)
        else:
            place = range(cell.n)[image]
        (row,) = cell.some_rows([place])
        found: Image = _notebook().side_by_side(row.image, row.adversarial, width)
        return found

    def __repr__(self) -> str:
        if not self.cells:
            return f"<Result: no numbers; {'; '.join(self.problems)[:200]}>"
        cell = self.strongest
        clean, left = _percent(self.clean_saving), _percent(self.surviving_saving)
        return (
            f"<Result {cell.label}: recovery {_percent(self.recovery)}, saving {clean} -> {left}, "
            f"{counted(cell.n, 'image')}, {counted(len(self.cells), 'cell')}>"
        )

    def _repr_html_(self) -> str:
        found: str = _notebook().fragment(self.boards)
        return found

    def _one(self, attack: str | None) -> BoardCell:
        return self.strongest if attack is None else self.cell(attack)


def _percent(estimate: Estimate) -> str:
    return "undefined" if estimate.value is None else percent(estimate.value)


def _notebook() -> Any:
    """What draws boards for notebooks."""
    from bench.plugins import registry

    return registry.load("report", "notebook")()
