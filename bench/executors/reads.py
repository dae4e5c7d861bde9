"""What importing and making a plugin reads: other modules, and data files.

Rows are only as good as the code that made them. The source of a plugin's own package is known
without running anything (`bench.store.provenance`); what else it reads is seen by making it once
in a clean process. The list is kept in the user's folder, and holds as long as every file on it
is unchanged. Not seen: what is read when images are evaluated, and what compiled libraries open.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bench
from bench.contracts.cell import Cell, Component
from bench.errors import DiskError
from bench.executors.processes import STARTS, check_started, start
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical, digest
from bench.files.home import home
from bench.files.regular import read_regular
from bench.plugins.registry import HANDED_OVER, HOME_DISTRIBUTION
from bench.plugins.sources import source_file

TRACE_LIMIT = 120.0
"""Seconds that importing and making a plugin may take here; a cell has its own deadline."""


class Reads:
    """What the plugins of other distributions read, found out once for each.

    Args:
        log: file for what plugins print meanwhile.
    """

    def __init__(self, log: Path) -> None:
        self._log = log
        self._known: dict[str, dict[str, str]] = {}

    def of(self, cell: Cell) -> dict[str, dict[str, str]]:
        """Kind of component -> name of what it reads -> digest (16 hex digits), or "absent".

        Args:
            cell: the resolved cell.
        """
        found = {}
        parts = {"target": cell.target, "defense": cell.defense, "attack": cell.attack}
        for kind, component in parts.items():
            known = (HOME_DISTRIBUTION, HANDED_OVER)  # an object of this program is already made
            if component and component.distribution not in known:
                found[kind] = self._one(kind, component)
        return found

    def _one(self, kind: str, component: Component) -> dict[str, str]:
        key = _key(kind, component)
        if key not in self._known:
            place = home() / "reads" / f"{key}.json"
            files = _kept(place)
            if files is None:
                files = _trace(kind, component, str(self._log))
                _keep(place, files)
            self._known[key] = {name: content for name, _, content in files}
        return self._known[key]


File = tuple[str, str, str]
"""(name, path, digest)"""


def _key(kind: str, component: Component) -> str:
    """Names what is made, where from, and where its imports are looked up."""
    place = str(source_file(component.value.partition(":")[0]))
    made = [component.provider, component.value, dict(component.params)]
    return digest([kind, made, place, sys.path, sys.version])


def _kept(place: Path) -> list[File] | None:
    """The list that was kept, if every file on it is as it was."""
    try:
        files = [
            (str(name), str(path), str(then))
            for name, path, then in json.loads(read_regular(place))
        ]
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return files if all(_digest(Path(path)) == then for _, path, then in files) else None


def _keep(place: Path, files: Iterable[File]) -> None:
    with contextlib.suppress(OSError, DiskError):  # it saves time, and nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, canonical([list(file) for file in files]))


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return "absent"


def _trace(kind: str, component: Component, log: str) -> list[File]:
    """Make a plugin in a clean process and list what it read; nothing where that cannot be."""
    for _ in range(STARTS):
        process, connection = start(_answer, kind, component, log)
        try:
            found: list[File] = connection.recv() if connection.poll(TRACE_LIMIT) else []
        except (EOFError, OSError):  # killed, or it ended the process: so will its cell
            process.join(5)
            check_started(process.exitcode)
            continue
        finally:
            process.kill()
            process.join()
            connection.close()
        return found
    return []


def _answer(connection: Connection, kind: str, component: Component, log: str) -> None:
    """In the clean process: make the plugin, and send what it read."""
    importlib.import_module("bench.executors.preload")
    from bench.evaluation.build import build
    from bench.executors.worker import redirect

    redirect(log)
    opened: set[str] = set()
    before = set(sys.modules)
    sys.addaudithook(_listener(opened))
    with contextlib.suppress(BaseException):  # the cell will fail in the same way, and say so
        build(kind, component)
    modules = {name for name in set(sys.modules) - before if name != "__mp_main__"}
    connection.send(_files(component.value.partition(":")[0], modules, set(opened)))


def _listener(opened: set[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes every file opened for reading."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        mode, flags = arguments[1], arguments[2]
        if isinstance(mode, str):
            reads = "r" in mode or "+" in mode
        else:
            reads = not isinstance(flags, int) or flags & os.O_ACCMODE != os.O_WRONLY
        if reads:
            opened.add(os.path.abspath(os.fsdecode(arguments[0])))

    return hear


def _files(plugin: str, modules: Iterable[str], opened: Iterable[str]) -> list[File]:
    """Names, paths and digests of what lies outside the installation, sorted by name."""
    source = source_file(plugin.partition(".")[0])
    root = source.parent if source else Path.cwd()
    own = root if source and source.name == "__init__.py" else None
    root = root.parent if own else root
    skipped = _installation()
    named: dict[str, str] = {}
    for name in modules:
        path = getattr(sys.modules[name], "__file__", None)
        if isinstance(path, str) and not _inside(path, skipped, own):
            named[f"module:{name}"] = os.path.abspath(path)
    files = set(named.values())
    outside: dict[str, int] = {}
    for path in sorted(set(opened) - files):
        if path.endswith(".pyc") or _inside(path, skipped, own) or _is_special(path):
            continue
        if Path(path).is_relative_to(root):
            named[f"file:{Path(path).relative_to(root).as_posix()}"] = path
        elif os.path.isfile(path):
            base = os.path.basename(path)
            outside[base] = outside.get(base, 0) + 1
            named[f"file:…/{base}#{outside[base]}"] = path
    return [(name, path, _digest(Path(path))) for name, path in sorted(named.items())]


def _installation() -> list[Path]:
    """Folders whose content the recorded versions stand for."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [Path(sysconfig.get_path(name)) for name in names]
    return [*found, Path(bench.__file__).parent, home()]


def _inside(path: str, skipped: Iterable[Path], own: Path | None) -> bool:
    """Whether a file belongs to the installation, and not to the plugin's own package."""
    place = Path(os.path.abspath(path))
    if own is not None and place.is_relative_to(own):
        return False
    installed = "site-packages" in place.parts or "dist-packages" in place.parts
    return installed or any(place.is_relative_to(folder) for folder in skipped)


def _is_special(path: str) -> bool:
    return path.startswith(("/proc/", "/sys/", "/dev/"))
