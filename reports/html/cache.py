"""What was rendered before, by the content that it was made from; it lies beside the report.

Nothing depends on it: without the folder everything is rendered again, to the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from bench.errors import DiskError
from bench.files.atomic import write_atomic
from bench.files.regular import read_regular
from reports.html.site import File

_OWN = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.[0-9a-f]+\.part")
"""Names of kept files, and of those that a killed process left half-written."""


class RenderCache:
    """Files by the digest of what they are made from."""

    def __init__(self, folder: Path | None = None) -> None:
        """Use `folder`, which is made when something is kept; None keeps nothing."""
        self._folder = folder
        self._used: set[str] = set()

    def files(self, parts: Iterable[str], make: Callable[[], Iterable[File]]) -> list[File]:
        """The files made from `parts`, rendered by `make` unless they are here.

        Args:
            parts: everything that the files depend on but the code of this package.
            make: renders them.
        """
        if self._folder is None:
            return list(make())
        key = _digest([sources_digest(), *parts])
        self._used.add(key)
        place = self._folder / key
        kept = _unpacked(place)
        if kept is None:
            kept = list(make())
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_atomic(place, _packed(kept))
            except (OSError, DiskError):
                self._folder = None  # a full disk is no reason to go without a report
        return kept

    def prune(self) -> None:
        """Remove what this report did not use."""
        if self._folder is None or self._folder.is_symlink() or not self._folder.is_dir():
            return
        with contextlib.suppress(OSError):
            for path in self._folder.iterdir():
                if path.name not in self._used and _OWN.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            if not self._used:
                self._folder.rmdir()  # but for what somebody else put there


def cache_beside(out: Path) -> RenderCache:
    """The cache of the report in the folder `out`."""
    place = Path(os.path.abspath(out))  # the working folder has no name of its own as "."
    return RenderCache(place.with_name(f".{place.name}.cache") if place.name else None)


def _digest(parts: Iterable[str]) -> str:
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "big") + data)
    return found.hexdigest()


@lru_cache(maxsize=1)
def sources_digest() -> str:
    """A digest of the code and the templates that render."""
    found = hashlib.sha256()
    for name, content in sorted(_sources(files("reports"), "")):
        found.update(name.encode() + content)
    return found.hexdigest()


def _sources(folder: Traversable, prefix: str) -> Iterable[tuple[str, bytes]]:
    for one in folder.iterdir():
        if one.is_dir() and one.name != "__pycache__":
            yield from _sources(one, f"{prefix}{one.name}/")
        elif one.is_file() and not one.name.endswith(".pyc"):
            yield f"{prefix}{one.name}", one.read_bytes()


def _packed(kept: Iterable[File]) -> bytes:
    """A line that names the files with their sizes, then their contents."""
    found = list(kept)
    head = json.dumps([[name, len(content)] for name, content in found])
    body = b"".join(content for _, content in found)
    whole = head.encode() + b"\n" + body
    return hashlib.sha256(whole).hexdigest().encode() + b"\n" + whole


def _unpacked(place: Path) -> list[File] | None:
    """What lies there; None where there is nothing, or nothing whole."""
    try:
        digest, _, whole = read_regular(place).partition(b"\n")
        if hashlib.sha256(whole).hexdigest().encode() != digest:
            return None
        head, _, body = whole.partition(b"\n")
        found, start = [], 0
        for name, size in json.loads(head):
            found.append((str(name), body[start : start + size]))
            start += size
        os.utime(place)
        return found
    except (OSError, ValueError, RecursionError):
        return None
