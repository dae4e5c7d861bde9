"""log.txt of a run: every event of its cells, and what plugins print."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.files.writing import refused

Write = Callable[[str], None]
"""Writes a text and what time it is."""


class RunLog:
    """The log of a run; everybody writes to its end.

    Attributes:
        path: of the file, absolute, since a plugin may change the folder that its process works in.
    """

    def __init__(self, folder: Path) -> None:
        self.path = (folder / "log.txt").absolute()

    def write(self, text: str) -> None:
        """Write one text.

        Raises:
            DiskError: the disk refused.
        """
        with self.opened() as write:
            write(text)

    @contextlib.contextmanager
    def opened(self) -> Iterator[Write]:
        """The file, open for many texts.

        Raises:
            DiskError: it cannot be opened, or written to.
        """
        try:
            file = open(self.path, "ab", buffering=0)  # noqa: SIM115 -- closed below
        except OSError as error:
            raise refused(error, self.path, "open") from error

        def write(text: str) -> None:
            line = f"{time.strftime('%H:%M:%S')} {text}".rstrip() + "\n"
            left = line.encode("utf-8", "backslashreplace")
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                raise refused(error, self.path) from error

        with file:
            yield write
