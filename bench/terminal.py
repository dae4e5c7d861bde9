"""The one way to the terminal: whatever is printed is cleaned and shortened here.

Labels, reasons, docstrings and names in files are written by others. A control character among
them could move the cursor, color the screen or paint a line that gatebench never wrote.
"""

from __future__ import annotations

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

LONGEST_LINE = 2000
"""Characters of a line that are shown."""
MOST_LINES = 400
"""Lines of one message that are shown."""
LONGEST_CELL = 300
"""Characters of a cell of a table that are shown."""

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
    lines = printable(text).split("\n")
    kept = [_shortened(line, LONGEST_LINE) for line in lines[:MOST_LINES]]
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


def page(text: str, *, err: bool = False) -> None:
    """Print a document of gatebench's own making (JSON, Markdown, a plan) whole, only cleaned."""
    click.echo(printable(text), nl=False, err=err)


def cell(text: object, style: str = "") -> Text:
    """`text` for a cell of a rich table; never read as markup."""
    from rich.text import Text

    return Text(one_line(text), style=style)


def console(*, err: bool = False) -> Console:
    """A rich console that reads no markup; NO_COLOR and COLUMNS are honored."""
    from rich.console import Console

    return Console(stderr=err, markup=False, highlight=False, emoji=False)


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
