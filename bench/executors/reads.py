"""What importing and making a plugin reads: other modules, and data files.

Rows are only as good as the code that made them. The source of a plugin's own package is known
without running anything (`bench.store.provenance`); what else it reads is seen by making it once
in a clean process: modules, data files, folders that were listed, libraries, the versions of other
distributions. Modules that its source imports later or where they are found, and environment
variables and files beside it whose names are written out, are found in its source
(`bench.plugins.mentions`). The list is kept in the user's folder, and holds as long as everything
on it is unchanged. Not seen: what is read when images are evaluated, what compiled libraries open
and what other programs answer, where the source does not name it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import re
import sys
import sysconfig
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import bench
from bench.contracts.cell import Cell, Component
from bench.errors import DiskError
from bench.executors.processes import STARTS, check_started, search_path, start
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical, digest
from bench.files.home import home
from bench.files.regular import check_regular, read_regular
from bench.plugins.makers import makers_of
from bench.plugins.mentions import mentions
from bench.plugins.registry import HANDED_OVER, HOME_DISTRIBUTION
from bench.plugins.sources import source_file, working_folder
from bench.store.provenance import VERSIONED

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
                if files is not None:  # else the next run tries again
                    _keep(place, files)
            files = files or []
            self._known[key] = {name: content for name, _, content in files}
        return self._known[key]


File = tuple[str, str, str]
"""(name, path, digest): of distributions the version, of variables and late modules no path."""


def _key(kind: str, component: Component) -> str:
    """Names what is made, where from, and where its imports are looked up."""
    place = str(source_file(component.value.partition(":")[0]))
    made = [component.provider, component.value, dict(component.params)]
    return digest([kind, made, place, search_path(), sys.version])


def _kept(place: Path) -> list[File] | None:
    """The list that was kept, if every file on it is as it was."""
    try:
        files = [
            (str(name), str(path), str(then))
            for name, path, then in json.loads(read_regular(place))
        ]
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return files if all(_now(name, path) == then for name, path, then in files) else None


def _keep(place: Path, files: Iterable[File]) -> None:
    with contextlib.suppress(OSError, DiskError):  # it saves time, and nothing else
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, canonical([list(file) for file in files]))


def _now(name: str, path: str) -> str:
    """What stands on the list for something, as it is now."""
    kind, _, called = name.partition(":")
    if kind == "variable":
        value = os.environ.get(called)
        return "absent" if value is None else digest(value)[:16]
    if kind == "distribution":
        try:
            return version(called)
        except PackageNotFoundError:
            return "absent"
    if kind == "module" and not path:
        found = _source(called)
        return "absent" if found is None else file_digest(found)
    if kind == "folder":
        return _listing(Path(path), called.rpartition("/")[2])
    return file_digest(Path(path))


def _source(module: str) -> Path | None:
    """The file of a module, if there is one."""
    try:
        return source_file(module)
    except Exception:  # finders may be anybody's
        return None


def _listing(folder: Path, pattern: str) -> str:
    """Digest of the names of a folder's files that match a pattern."""
    try:
        return digest(sorted(each.name for each in folder.glob(pattern) if each.is_file()))[:16]
    except OSError:
        return "absent"


def file_digest(path: Path) -> str:
    """Digest of a file's bytes, or "absent"."""
    try:
        check_regular(path)
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError:
        return "absent"


def _trace(kind: str, component: Component, log: str) -> list[File] | None:
    """Make a plugin in a clean process and list what it read; None where that cannot be."""
    for _ in range(STARTS):
        process, connection = start(_answer, kind, component, log)
        try:
            found: list[File] | None = connection.recv() if connection.poll(TRACE_LIMIT) else None
        except (EOFError, OSError):  # killed, or it ended the process: so will its cell
            process.join(5)
            check_started(process.exitcode)
            continue
        finally:
            process.kill()
            process.join()
            connection.close()
        return found
    return None


def _answer(connection: Connection, kind: str, component: Component, log: str) -> None:
    """In the clean process: make the plugin, and send what it read."""
    importlib.import_module("bench.executors.preload")
    from bench.evaluation.build import build
    from bench.executors.worker import redirect

    redirect(log)
    opened: set[str] = set()
    listed: set[str] = set()
    before = set(sys.modules)
    sys.addaudithook(_listener(opened, listed))
    _note_safetensors(opened)
    with contextlib.suppress(BaseException):  # the cell will fail in the same way, and say so
        build(kind, component)
    modules = {name for name in set(sys.modules) - before if name != "__mp_main__"}
    found = _Seen(modules, set(opened), set(listed))
    connection.send(_files(component, found))


@dataclass(frozen=True)
class _Seen:
    """What making a plugin used.

    Attributes:
        modules: that were imported.
        opened: files, libraries and arguments of other programs among them.
        listed: folders.
    """

    modules: set[str]
    opened: set[str]
    listed: set[str]


def _note_safetensors(opened: set[str]) -> None:
    """Let safetensors say what it opens: it does so in compiled code."""
    original = vars(importlib.import_module("safetensors"))["safe_open"]

    def safe_open(filename: Any, *rest: Any, **named: Any) -> Any:
        opened.add(os.path.abspath(os.fsdecode(filename)))
        return original(filename, *rest, **named)

    for module in list(sys.modules.values()):
        if getattr(module, "safe_open", None) is original:
            vars(module)["safe_open"] = safe_open


def _listener(opened: set[str], listed: set[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes every file opened for reading, library and folder that is listed."""

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.listdir", "os.scandir"):
            place, caller = arguments[0] or ".", sys._getframe(1).f_code.co_filename
            if isinstance(place, str | bytes | os.PathLike) and "importlib" not in caller:
                listed.add(os.path.abspath(os.fsdecode(place)))
            return
        if event in ("ctypes.dlopen", "sqlite3.connect", "subprocess.Popen"):
            given = arguments[1] if event == "subprocess.Popen" else arguments[:1]
            for each in [given] if isinstance(given, str) else given:
                if isinstance(each, str) and os.path.isfile(each):
                    opened.add(os.path.abspath(each))
            return
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        mode, flags = arguments[1], arguments[2]
        if isinstance(mode, str):
            reads = "r" in mode or "+" in mode
        else:
            reads = not isinstance(flags, int) or flags & os.O_ACCMODE != os.O_WRONLY
        if reads:
            opened.add(_uncompiled(os.path.abspath(os.fsdecode(arguments[0]))))

    return hear


def _uncompiled(path: str) -> str:
    """The source that a compiled file was made from; the file itself where there is none."""
    with contextlib.suppress(ValueError, NotImplementedError):
        source = importlib.util.source_from_cache(path)
        return source if os.path.isfile(source) else path
    return path


def _files(component: Component, seen: _Seen) -> list[File]:
    """Names, paths and digests of what lies outside the installation, sorted by name."""
    plugin = component.value.partition(":")[0]
    root, own = _places(plugin)
    skipped = _installation()
    tops = {name.partition(".")[0] for name in (plugin, *seen.modules)}
    owners, required = makers_of(tops), _required()
    mine = {component.distribution, *owners.get(plugin.partition(".")[0], ())}
    named: dict[str, str] = {}
    for name in seen.modules:
        path = getattr(sys.modules[name], "__file__", None)
        if not isinstance(path, str):
            continue
        makers = [maker for maker in owners.get(name.partition(".")[0], []) if _inside(path, ())]
        if not _inside(path, skipped, own) or mine.intersection(makers):
            named[f"module:{name}"] = os.path.abspath(path)
        else:
            others = [maker for maker in makers if maker.lower() not in required]
            named.update((f"distribution:{maker}", "") for maker in others)
    named |= _mentioned(named, skipped, root, own)
    files = set(named.values())
    outside: dict[str, int] = {}
    suffixes: dict[str, set[str]] = {}
    for path in sorted(seen.opened - files):
        if path.endswith(".pyc") or _inside(path, skipped, own) or _is_special(path):
            continue
        suffixes.setdefault(os.path.dirname(path), set()).add(os.path.splitext(path)[1])
        if Path(path).is_relative_to(root):
            named[f"file:{Path(path).relative_to(root).as_posix()}"] = path
        elif os.path.isfile(path):
            base = os.path.basename(path)
            outside[base] = outside.get(base, 0) + 1
            named[f"file:…/{base}#{outside[base]}"] = path
    for folder in sorted(seen.listed):
        if Path(folder).is_relative_to(root) and not _inside(folder, skipped, own):
            place = Path(folder).relative_to(root).as_posix()
            for suffix in sorted(suffixes.get(folder, ())):
                named[f"folder:{place}/*{suffix}"] = folder
    return [(name, path, _now(name, path)) for name, path in sorted(named.items())]


def _required() -> set[str]:
    """Distributions that gatebench itself needs: the record has their versions, or no number hangs
    on them."""
    lines = requires(HOME_DISTRIBUTION) or ()
    names = [re.split(r"[^A-Za-z0-9_.-]", line, maxsplit=1)[0] for line in lines]
    return {HOME_DISTRIBUTION, *(name.lower() for name in (*names, *VERSIONED))}


def _places(plugin: str) -> tuple[Path, Path | None]:
    """(the folder that a plugin's files are named from, the folder of its package if it has one)"""
    top = _source(plugin.partition(".")[0])
    if top is not None:
        return (top.parent.parent, top.parent) if top.name == "__init__.py" else (top.parent, None)
    source = _source(plugin)
    if source is None:
        return Path(working_folder()), None
    return source.parents[plugin.count(".")], source.parent  # in a package without __init__.py


def _mentioned(
    named: Mapping[str, str], skipped: Iterable[Path], root: Path, own: Path | None
) -> dict[str, str]:
    """Modules, variables and files beside them that the modules on the list mention, and what
    those modules mention in turn."""
    found: dict[str, str] = {}
    left = [(name.partition(":")[2], path) for name, path in named.items() if path]
    known = {name for name, _ in left}
    while left:
        module, path = left.pop()
        said = mentions(Path(path), module)
        found.update((f"variable:{variable}", "") for variable in said.variables)
        for text in said.texts:
            beside = Path(path).parent / text
            if beside.is_file() and not _inside(str(beside), skipped, own):
                place = os.path.relpath(beside, root).replace(os.sep, "/")
                found[f"file:{place}"] = os.path.abspath(beside)
        for other in sorted(said.modules - known):
            known.add(other)
            if other in sys.modules or other.partition(".")[0] in sys.stdlib_module_names:
                continue
            parent = sys.modules.get(other.rpartition(".")[0])
            if parent is not None and hasattr(parent, other.rpartition(".")[2]):
                continue  # a name in a module, no module
            source = _source(other)
            if source is None or not _inside(str(source), skipped, own):
                found[f"module:{other}"] = ""
            if source is not None and not _inside(str(source), skipped, own):
                left.append((other, str(source)))
    return found


def _installation() -> list[Path]:
    """Folders whose content the recorded versions stand for."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    found = [Path(sysconfig.get_path(name)) for name in names]
    return [*found, Path(bench.__file__).parent, home()]


def _inside(path: str, skipped: Iterable[Path], own: Path | None = None) -> bool:
    """Whether a file belongs to the installation, and not to the plugin's own package."""
    place = Path(os.path.abspath(path))
    if own is not None and place.is_relative_to(own):
        return False
    installed = "site-packages" in place.parts or "dist-packages" in place.parts
    return installed or any(place.is_relative_to(folder) for folder in skipped)


def _is_special(path: str) -> bool:
    return path.startswith(("/proc/", "/sys/", "/dev/"))
