"""The one way to the terminal: whatever is printed is cleaned and shortened here.

Labels, reasons, docstrings and names in files are written by others. A control character among
them could move the cursor, color the screen or paint a line that gatebench never wrote.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any, Literal, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

LONGEST_LINE = 2000
"""Characters of a line that are shown."""
MOST_LINES = 400
"""Lines of one message that are shown."""
LONGEST_CELL = 300
"""Characters of a cell of a table that are shown."""

NARROWEST, WIDEST = 20, 2000
"""Columns that tables are laid out for, whatever COLUMNS or the terminal says."""

_SHOWN = "\n\t"
_HIDDEN = {"Cc", "Cs", "Zl", "Zp"}
"""Categories that are written out: controls, halves of characters, and separators that some
terminals take for the end of a line."""
_REORDERING = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\ufffe\uffff"
)
"""Marks that change the order in which text is read, and no characters at all; written out too."""


def printable(text: object) -> str:
    """`text` with everything that is not plainly visible written out, as in a Python string.

    Line feeds and tabs stay; a tab is four spaces. It is not shortened.
    """
    plain = str(text)
    if not plain.isprintable():
        plain = "".join(map(_written_out, plain)).replace("\t", "    ")
    return plain


def message(text: object) -> str:
    """`text` as a message of several lines: `printable`, not too long, later lines indented.

    The indent keeps a line feed in a name from starting a line that looks like one of gatebench's.
    """
    lines = str(text).split("\n")
    kept = [_shortened(printable(line), LONGEST_LINE) for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        kept.append(f"… {len(lines) - MOST_LINES} more lines")
    return "\n".join(
        [kept[0], *(line if not line or line[0] == " " else f"  {line}" for line in kept[1:])]
    )


def one_line(text: object, longest: int = LONGEST_CELL) -> str:
    """`text` on one line: `printable`, line feeds written out, at most `longest` characters."""
    return _shortened(printable(text).replace("\n", "\\n"), longest)


def say(text: object = "", *, err: bool = False, color: str | None = None) -> None:
    """Print a message.

    Args:
        text: what to say; see `message`.
        err: print to standard error.
        color: of the whole message, where colors are shown.
    """
    click.secho(message(text), err=err, fg=color)


def remark(text: object) -> None:
    """Print a line on standard error: what a long command is at, or what it leaves out."""
    say(one_line(text, LONGEST_LINE), err=True)


def page(text: str, *, err: bool = False) -> None:
    """Print a document of gatebench's own making (JSON, Markdown, a plan) whole, only cleaned."""
    click.echo(printable(text), nl=False, err=err)


def percent(value: float | None, places: int = 1) -> str:
    """A share as a person reads it, a dash where there is none."""
    return "-" if value is None else f"{fixed(100 * value, places)} %"


def fixed(value: float, places: int = 1, *, plus: bool = False) -> str:
    """A number with so many decimal places; what rounds to zero has no sign.

    Examples:
        >>> fixed(-0.04), fixed(-0.06), fixed(0.04, plus=True), fixed(1.25, 2, plus=True)
        ('0.0', '-0.1', '0.0', '+1.25')
    """
    text = f"{value:{'+' if plus else '-'}.{places}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def counted(number: int, noun: str) -> str:
    """How many of something, as a person writes it.

    Args:
        number: of them.
        noun: what one of them is called.

    Examples:
        >>> counted(1, "cell"), counted(0, "image"), counted(2048, "class"), counted(2, "entry")
        ('1 cell', '0 images', '2,048 classes', '2 entries')
        >>> counted(2, "batch"), counted(2, "epoch")
        ('2 batches', '2 epochs')
    """
    if number == 1:
        return f"1 {noun}"
    if re.search("(s|x|z|sh|[^o]ch)$", noun):
        return f"{number:,} {noun}es"
    if re.search("[^aeiou]y$", noun):
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}s"


def cell(text: object, style: str = "", longest: int = LONGEST_CELL) -> Text:
    """`text` for a cell of a rich table; never read as markup."""
    from rich.text import Text

    return Text(one_line(text, longest), style=style)


def console(*, err: bool = False) -> Console:
    """A rich console that reads no markup; NO_COLOR and COLUMNS are honored."""
    from rich.console import Console

    return of_sane_width(Console(stderr=err, markup=False, highlight=False, emoji=False))


def of_sane_width(console: Console) -> Console:
    """The console, with another width where nothing could be read at its own: at 0 rich prints
    nothing at all."""
    if not NARROWEST <= console.width <= WIDEST:
        console.width = min(max(console.width, 80), WIDEST)
    return console


@dataclass(frozen=True)
class FittedColumn:
    """A column of a table that fits a terminal.

    Attributes:
        head: its title.
        gives_way: the larger, the sooner it is left out where there is no room; 0 is never.
        name: whether it holds names, which are folded at their joints; else numbers, which are
            never folded.
    """

    head: str
    gives_way: int = 0
    name: bool = False


_GAP = 2
_NARROW, _LEAST = 16, 4
"""Columns of a terminal that names have before others give way, and whatever happens."""
_JOINT = re.compile(r"(?<=[-:+/,;=_@ ])(?=[^ ])")
"""Where names break: after what joins their parts."""


@dataclass(frozen=True)
class FittedTable:
    """A table of at most `width` columns in which no name and no number is cut.

    Where there is no room, columns are left out, those that give way soonest first; then names are
    folded.

    Args:
        columns: of the table.
        rows: all that are to be shown, a text for each column; plain strings are shown as `cell`
            shows them.
        width: of the terminal.
    """

    columns: Sequence[FittedColumn]
    rows: Sequence[Sequence[Text | str]]
    width: int

    @property
    def left_out(self) -> list[str]:
        """The heads of the columns that there is no room for."""
        return [one.head for place, one in enumerate(self.columns) if place not in self._widths]

    def table(
        self,
        rows: Sequence[Sequence[Text | str]] | None = None,
        styles: Sequence[str] = (),
        *,
        heads: bool = True,
    ) -> Table:
        """The table for a rich console.

        Args:
            rows: those to show; all unless given.
            styles: of each row; none by default.
            heads: whether the titles are shown.
        """
        from rich.table import Table

        made = Table(
            box=None, pad_edge=False, header_style="dim", padding=(0, _GAP // 2), show_header=heads
        )
        for place, width in self._widths.items():
            column = self.columns[place]
            side: Literal["left", "right"] = "left" if column.name else "right"
            made.add_column(column.head, justify=side, no_wrap=True, min_width=width)
        shown = self.rows if rows is None else rows
        for number, row in enumerate(shown):
            made.add_row(
                *(
                    folded(_text(row[place]), width, hanging=place == next(iter(self._widths)))
                    if self.columns[place].name
                    else _text(row[place])
                    for place, width in self._widths.items()
                ),
                style=styles[number] if styles else None,
            )
        return made

    @cached_property
    def _widths(self) -> dict[int, int]:
        """Place -> width of each column that is shown."""
        natural = [
            max([len(column.head), *(_text(row[place]).cell_len for row in self.rows)])
            for place, column in enumerate(self.columns)
        ]
        widths = {
            place: min(natural[place], _NARROW)
            if column.name and not column.gives_way
            else natural[place]
            for place, column in enumerate(self.columns)
        }

        def spare() -> int:
            return self.width - sum(widths.values()) - _GAP * (len(widths) - 1)

        optional = [place for place in widths if self.columns[place].gives_way]
        for place in sorted(optional, key=lambda place: -self.columns[place].gives_way):
            if spare() < 0:
                del widths[place]
        names = [place for place in widths if self.columns[place].name]
        for left, place in zip(
            range(len(names), 0, -1), sorted(names, key=lambda place: natural[place]), strict=True
        ):
            share = widths[place] + spare() // left
            widths[place] = max(min(natural[place], share), _LEAST)
        return widths


def _text(text: Text | str) -> Text:
    return cell(text) if isinstance(text, str) else text


def folded(text: Text, width: int, *, hanging: bool = False) -> Text:
    """A text on as many lines as it needs, broken at spaces, else after what joins its parts.

    Args:
        text: on one line.
        width: of the widest line, in columns of a terminal.
        hanging: whether all lines but the first begin with a space, so that no part of a name
            begins a line of the terminal.
    """
    from rich.cells import cell_len
    from rich.text import Text

    if text.cell_len <= width:
        return text
    if hanging:
        width = max(width - 1, 1)
    lines: list[tuple[int, int]] = []
    start, plain = 0, text.plain
    joints = [match.start() for match in _JOINT.finditer(plain)] + [len(plain)]
    while start < len(plain):
        fitting = [end for end in joints if end > start and _fits(plain[start:end], width)]
        spaces = [end for end in fitting if plain[end - 1] == " " or end == len(plain)]
        end = (spaces or fitting or [start + 1])[-1]
        while not fitting and end < len(plain) and cell_len(plain[start : end + 1]) <= width:
            end += 1  # one part alone is too wide
        lines.append((start, end))
        start = end
    return Text("\n " if hanging else "\n").join(
        [_trimmed(text[start:end]) for start, end in lines]
    )


def _fits(plain: str, width: int) -> bool:
    from rich.cells import cell_len

    return cell_len(plain.rstrip()) <= width


def _trimmed(line: Text) -> Text:
    line.rstrip()
    return line


def _written_out(character: str) -> str:
    hidden = unicodedata.category(character) in _HIDDEN or character in _REORDERING
    if character in _SHOWN or not hidden:
        return character
    return character.encode("unicode_escape").decode()


def _shortened(line: str, longest: int) -> str:
    if len(line) <= longest:
        return line
    return f"{line[:longest]}… ({len(line) - longest} more characters)"


class Outlet:
    """A standard stream that outlives its reader.

    When the reader goes away (`gatebench run | head`), what follows is dropped: neither the work
    nor the exit code changes. Characters that the stream's encoding lacks are written out.

    Args:
        stream: the stream behind it; None where the process has none.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.gone = stream is None

    def write(self, text: str) -> int:
        with self._reader():
            if self._stream is not None and not self.gone:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    encoding = self._stream.encoding or "ascii"
                    self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._reader():
            if self._stream is not None and not self.gone:
                self._stream.flush()

    def isatty(self) -> bool:
        return not self.gone and self._stream is not None and self._stream.isatty()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            self.gone = True
            with contextlib.suppress(OSError, ValueError, AttributeError):
                _discard(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _discard(stream: IO[str] | None) -> None:
    """Let what is still in the stream's buffer go nowhere, so that no later flush fails."""
    if stream is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def outlets() -> Iterator[None]:
    """Standard output and error behind `Outlet`s."""
    before = sys.stdout, sys.stderr
    wrapped: Any = [Outlet(stream) for stream in before]
    sys.stdout, sys.stderr = wrapped
    try:
        yield
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before
