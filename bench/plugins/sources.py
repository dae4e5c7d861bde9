"""Finding classes in source files without importing them.

Plans and listings must not import torch, so what a class declares is read with `ast`. A class is
found where it is defined, however it was imported: by name, by module, under another name, or
through packages that re-export it (`from bench.api import Target`).
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import cast

CONTRACTS = "bench.contracts."
"""Where the base classes of all plugins are defined."""

_SILENT = frozenset(sys.stdlib_module_names) | {"torch"}
"""Packages whose classes declare nothing that a plan reads: `ABC`, `Protocol`, `nn.Module`."""


class Unreadable(Exception):
    """The source alone does not tell; the class has to be imported."""


@dataclass(frozen=True)
class ModuleSource:
    """A module that was parsed and not imported.

    Attributes:
        name: dotted.
        path: its file.
        tree: its syntax tree.
    """

    name: str
    path: Path
    tree: ast.Module

    @property
    def package(self) -> str:
        """The package that its relative imports start from."""
        return self.name if self.path.stem == "__init__" else self.name.rpartition(".")[0]


@dataclass(frozen=True)
class ClassSource:
    """A class statement and the module that it is in."""

    node: ast.ClassDef
    module: ModuleSource

    @property
    def is_contract(self) -> bool:
        """Whether it is one of the base classes that `bench.api` exports."""
        return self.module.name.startswith(CONTRACTS)

    @property
    def is_dataclass(self) -> bool:
        """Whether its annotated names are the parameters of its constructor."""
        names = (ast.unparse(node).partition("(")[0] for node in self.node.decorator_list)
        return any(name.rpartition(".")[2] == "dataclass" for name in names)

    @property
    def lineage(self) -> tuple[ClassSource, ...]:
        """Itself and all that it derives from, as far as there is source.

        Raises:
            Unreadable: a base class is not found in any source file.
        """
        return (self, *(each for base in self.bases for each in base.lineage))

    @functools.cached_property
    def bases(self) -> tuple[ClassSource, ...]:
        """Its base classes; a contract's own bases and those of torch declare nothing.

        Raises:
            Unreadable: a base class is not found in any source file.
        """
        if self.is_contract:
            return ()
        found = (_base(self.module, node) for node in self.node.bases)
        return tuple(base for base in found if base is not None)


def source_file(module: str) -> Path | None:
    """The file of a module, found without importing it or its parents; None if there is none, as
    for what lies in a zip archive."""
    top, *rest = module.split(".")
    try:
        spec = _spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        file = Path(spec.origin) if spec.origin and spec.has_location else None
        return file if file is not None and file.is_file() else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder).joinpath(*rest)
        for candidate in (base.with_suffix(".py"), base / "__init__.py"):
            if candidate.is_file():
                return candidate
    return None


@functools.lru_cache(maxsize=64)
def first_found(top: str, *_places: object) -> Path | None:
    """As `source_file`, kept for the same places; looking costs more than all else that is asked of
    a plugin of ours."""
    return source_file(top)


def _spec(top: str) -> ModuleSpec | None:
    """Where a top-level module would be imported from now, imported already or not."""
    for finder in sys.meta_path if top != "__main__" else ():
        if (find := getattr(finder, "find_spec", None)) and (found := find(top, None, None)):
            return cast(ModuleSpec, found)
    return importlib.util.find_spec(top)


Stamp = tuple[str, int, int]
"""Of a file: path, time of change and size."""

_files: set[Path] = set()


def stamps() -> tuple[object, ...]:
    """Equal to what it was before if no module that was read has changed, nor where they are looked
    up."""
    return *places(), tuple(_stamp(path) for path in sorted(_files))


def places() -> tuple[object, ...]:
    """What decides where modules are looked up."""
    return working_folder(), tuple(sys.path)


def working_folder() -> str:
    """The folder that this process is in; "" where it was removed, and holds no module."""
    try:
        return os.getcwd()
    except OSError:
        return ""


def _stamp(path: Path) -> Stamp:
    try:
        found = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), found.st_mtime_ns, found.st_size


def read_module(module: str) -> ModuleSource:
    """Parse a module, once as long as its file stays as it is.

    Raises:
        Unreadable: it has no Python source, or one with a syntax error.
    """
    path = source_file(module)
    if path is None or path.suffix != ".py":
        raise Unreadable
    _files.add(path)
    return _parsed(module, path, _stamp(path))


@functools.lru_cache(maxsize=1024)
def _parsed(module: str, path: Path, stamp: Stamp) -> ModuleSource:
    try:
        return ModuleSource(module, path, ast.parse(path.read_bytes()))
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError) as error:
        raise Unreadable from error


def find_class(module: ModuleSource, name: str) -> ClassSource:
    """The class that `name` means in a module.

    Raises:
        Unreadable: it is not a class, or not found in any source file.
    """
    home, node = find_definition(module, name)
    if not isinstance(node, ast.ClassDef):
        raise Unreadable
    return ClassSource(node, home)


def find_definition(module: ModuleSource, name: str) -> tuple[ModuleSource, ast.stmt]:
    """Where a name is defined: the module, and its class statement or assignment.

    Raises:
        Unreadable: not at the top level of any source file that the imports lead to.
    """
    return _definition(module, name, set())


def _definition(
    module: ModuleSource, name: str, seen: set[tuple[str, str]]
) -> tuple[ModuleSource, ast.stmt]:
    if (module.name, name) in seen:
        raise Unreadable
    seen.add((module.name, name))
    for node in reversed(module.tree.body):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == name for target in node.targets
        ):
            return module, node
    for origin, original in _imports(module, name):
        try:
            return _definition(read_module(origin), original, seen)
        except Unreadable:
            continue
    raise Unreadable


def _imports(module: ModuleSource, name: str) -> Iterator[tuple[str, str]]:
    """(module, name there) of each `from` import that may bind `name`; stars come last."""
    stars = []
    for node in module.tree.body:
        if not isinstance(node, ast.ImportFrom):
            continue
        origin = _origin(module, node)
        for alias in node.names:
            if (alias.asname or alias.name) == name:
                yield origin, alias.name
            elif alias.name == "*" and origin.partition(".")[0] not in _SILENT:
                stars.append(origin)
    for origin in stars:
        yield origin, name


def _origin(module: ModuleSource, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a `from` import reads."""
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    parent = ".".join(parts[: len(parts) - node.level + 1])
    return f"{parent}.{node.module}" if node.module else parent


def _base(module: ModuleSource, node: ast.expr) -> ClassSource | None:
    """A base class by the expression that names it; None for one that declares nothing."""
    if isinstance(node, ast.Subscript):  # Generic[T]
        node = node.value
    path = ast.unparse(node).split(".")
    if len(path) > 1:
        origin = _module_called(module, path[:-1])
        if origin.partition(".")[0] in _SILENT:
            return None
        return find_class(read_module(origin), path[-1])
    name = path[0]
    local = any(
        isinstance(other, ast.ClassDef) and other.name == name for other in module.tree.body
    )
    imported = [] if local else list(_imports(module, name))
    if not local and not imported and hasattr(builtins, name):
        return None
    if imported and imported[0][0].partition(".")[0] in _SILENT:
        return None
    return find_class(module, name)


def _module_called(module: ModuleSource, path: list[str]) -> str:
    """The absolute name of the module that a dotted expression means."""
    for node in module.tree.body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname == path[0]:
                    return ".".join([alias.name, *path[1:]])
                if not alias.asname and alias.name.split(".")[0] == path[0]:
                    return ".".join(path)
    for origin, name in _imports(module, path[0]):
        return ".".join([origin, name, *path[1:]])
    raise Unreadable
