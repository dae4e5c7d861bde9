"""The board in the terminal: one compact table that says what its numbers are."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from bench.contracts.report import BoardReport
from bench.files.atomic import write_atomic
from bench.files.writing import make_folder
from bench.results.headroom import HeadroomEntry
from bench.results.records import Board, BoardCell, defended_name
from bench.terminal import FittedColumn, FittedTable, counted, folded, of_sane_width, one_line
from reports import numbers
from reports.answers import answers, sentence, summary
from reports.html.encode import clean
from reports.order import strongest_first, target_order
from reports.vocabulary import WIDE_HEADROOM

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.table import Table
    from rich.text import Text

LONGEST = 1000
"""Characters of a reason that are shown."""
WIDTH = 100
"""Columns that the table needs at most; used where there is no terminal to ask."""

_COLUMNS = (
    FittedColumn("#", 4),
    FittedColumn("attack", name=True),
    FittedColumn("recovery"),
    FittedColumn("MACs", 2),
    FittedColumn("saving left", 1),
    FittedColumn("acc.", 3),
    FittedColumn("PSNR", 5),
    FittedColumn("SSIM", 6),
    FittedColumn("evals", 7),
)
_STYLES = {
    "invalid": "bold red",
    "failed": "bold red",
    "timeout": "yellow",
    "oom": "yellow",
    "skipped": "dim",
    "withdrawn": "dim",
    "missing": "dim",
}


def render_table(board: Board, width: int = WIDTH) -> Group:
    """The board as something that a rich console prints, at most `width` columns wide.

    A block a target, in the order of the standings; in it attacks by rank, then controls, then what
    has no numbers, with the reason. Text from plugins is never read as markup. Where there is no
    room, columns are left out and said; names and flags are folded, never cut.
    """
    from rich.console import Group
    from rich.text import Text

    head = Text(_line(board.name), style="bold")
    parts: list[Text | Table] = [head, Text(_line(summary(board)), style="dim")]
    remarks = [_line(board.dataset_note)] if board.dataset_note else []
    if board.preliminary:
        remarks.insert(0, "preliminary: fewer than 100 images")
    remarks += [_line(reason) for reason in board.unreadable]
    if remarks:
        parts.append(Text("; ".join(remarks), style="yellow"))
    measured = [_numbers(cell) for cell in board.cells if cell.status == "ok"]
    fitted = FittedTable(_COLUMNS, measured, width)
    for target, defense in target_order(board):
        parts += [Text(""), *_block(board, target, defense, fitted)]
    parts.append(Text(""))
    if fitted.left_out:
        heads = ", ".join(fitted.left_out)
        told = f"left out for want of room: {heads}; 'gatebench show RUN --json' has all numbers"
        parts.append(Text(told, style="dim"))
    parts += [_answer(answer.question, answer.answer, answer.detail) for answer in answers(board)]
    legend = (
        "recovery: (adversarial − clean) / (ceiling − clean) in executed MACs "
        "(multiply-accumulates), ratio of means; "
        "MACs: adversarial, mean; saving left: 1 − MACs / ceiling; acc.: on adversarial images; "
        "PSNR: of the mean squared error over all images. "
        + (
            "#: rank on the target, shared where not significantly different. "
            if board.ranked
            else "Attacks are not ranked without a bound. "
        )
        + sentence(_line(board.intervals))
    )
    parts += [Text(""), Text(legend, style="dim")]
    return Group(
        *(folded(part, width, hanging=True) if isinstance(part, Text) else part for part in parts)
    )


def print_table(board: Board, file: TextIO | None = None) -> None:
    """Print the board: in color and to the terminal's width on a terminal, plain and `WIDTH` wide
    elsewhere; NO_COLOR is honoured.
    """
    out = console(file)
    out.print(render_table(board, out.width))


class Terminal(BoardReport):
    """The board as a table in the terminal, a block a target, the answers below."""

    def render(self, board: Board, out: Path | None = None) -> None:
        """Print the board; with a folder, write it there as plain text instead (board.txt)."""
        if out is None:
            print_table(board)
            return
        make_folder(Path(out))
        text = io.StringIO()
        print_table(board, text)
        write_atomic(Path(out) / "board.txt", text.getvalue().encode("utf-8"))


def console(file: TextIO | None = None) -> Console:
    """A console on `file` (default: standard output) that reads no markup and adds no colors of
    its own; as wide as the terminal, or as COLUMNS says.
    """
    from rich.console import Console

    stream = sys.stdout if file is None else file
    asked = file is None and os.environ.get("COLUMNS", "").isdecimal()
    width = None if stream.isatty() or asked else WIDTH
    found = Console(file=stream, markup=False, highlight=False, emoji=False, width=width)
    return of_sane_width(found)


def _block(board: Board, target: str, defense: str, fitted: FittedTable) -> list[Text | Table]:
    from rich.text import Text

    cells = [cell for cell in board.cells if (cell.target, cell.defense) == (target, defense)]
    standing = next(
        (one for one in board.standings if (one.target, one.defense) == (target, defense)), None
    )
    title = Text(_line(defended_name(target, defense)), style="bold")
    measured = next((cell for cell in cells if cell.status == "ok"), None)
    if measured is not None:
        place = (
            f"#{standing.rank} most robust; "
            if standing is not None and standing.rank is not None
            else ""
        )
        title.append(
            (
                f"  {place}clean {numbers.macs(measured.clean_macs)} of "
                f"{numbers.macs(measured.reference)}, saves "
                f"{numbers.percent(measured.clean_saving.value)}, accuracy "
                f"{numbers.percent(measured.clean_accuracy.value)}"
            ),
            style="not bold dim",
        )
    rows, styles = [], []
    without: list[Text | Table] = []
    for cell in strongest_first(cells):
        if cell.status == "ok":
            rows.append(_numbers(cell))
            styles.append("dim" if cell.control else "")
        else:
            without.append(_unfinished(cell))
    table = [fitted.table(rows, styles)] if rows else []
    found = [] if standing is None or standing.headroom is None else [_headroom(standing.headroom)]
    return [title, *table, *found, *without]


def _headroom(found: HeadroomEntry) -> Text:
    from rich.text import Text

    said = (
        f"  headroom: {_line(found.attack)} with {counted(found.times, 'time')} the budget adds "
        f"{numbers.points(found.added)} on {counted(found.images, 'image')}"
    )
    wide = (found.low or 0) > WIDE_HEADROOM
    return Text(said, style="yellow" if wide else "dim")


def _numbers(cell: BoardCell) -> Sequence[Text]:
    from rich.text import Text

    name = Text(_line(cell.attack))
    if cell.control:
        name.append(" (control)")
    if cell.submission is not None:
        name.append(" (submitted)")
    for flag in cell.flags:
        name.append(f" !{_line(flag)}", style="yellow")
    entries = (
        numbers.share(cell.recovery),
        numbers.macs(cell.adversarial_macs),
        numbers.percent(cell.surviving_saving.value),
        numbers.percent(cell.adversarial_accuracy.value),
        numbers.decibel(cell.overall_psnr),
        numbers.plain(cell.ssim, 3),
        numbers.plain(cell.evaluations),
    )
    rank = numbers.DASH if cell.attack_rank is None else str(cell.attack_rank)
    return [Text(rank), name, *(Text(entry) for entry in entries)]


def _unfinished(cell: BoardCell) -> Text:
    from rich.text import Text

    line = Text("  ")
    line.append(_line(cell.attack))
    line.append(f" {_line(cell.status)}", style=_STYLES.get(cell.status, "yellow"))
    if cell.reason:
        line.append(f": {_line(cell.reason)}", style="dim")
    return line


def _answer(question: str, answer: str, detail: str) -> Text:
    from rich.text import Text

    line = Text(f"{question}: ", style="dim")
    line.append(_line(answer), style="bold not dim")
    line.append(f"  {_line(detail)}", style="dim")
    return line


def _line(text: str) -> str:
    """One line, not too long: a reason with line feeds would break the table."""
    return one_line(" ".join(clean(text).split()), LONGEST)
