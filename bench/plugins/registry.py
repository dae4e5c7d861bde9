"""Lazy entry points: name -> provider. A broken plugin is a row, never a crash.

Everything that can be named in a plan arrives here, the built-ins by the same path as anybody's
plugin: a distribution declares an entry point in one of the groups `gatebench.targets`, `.attacks`,
`.defenses`, `.datasets`, `.recipes`, `.weights`, `.suites`, `.reports`, `.comparisons`,
`.regressions`, `.executors`. Nothing is imported until it is used.
"""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import Distribution, EntryPoint, distributions, entry_points
from pathlib import Path
from typing import Any

import bench
from bench.errors import PluginError, UnknownName, in_words
from bench.plugins.constants import wrong_constant
from bench.plugins.declarations import ClassFacts, read_class
from bench.plugins.sources import (
    Unreadable,
    find_class,
    first_found,
    places,
    read_module,
    source_file,
    stamps,
    working_folder,
)

GROUPS = {
    "target": "gatebench.targets",
    "attack": "gatebench.attacks",
    "defense": "gatebench.defenses",
    "dataset": "gatebench.datasets",
    "recipe": "gatebench.recipes",
    "weights": "gatebench.weights",
    "suite": "gatebench.suites",
    "report": "gatebench.reports",
    "comparison": "gatebench.comparisons",
    "regression": "gatebench.regressions",
    "executor": "gatebench.executors",
}
"""Kinds of things that can be provided, and the entry-point group of each."""

HOME_DISTRIBUTION = "gatebench"
_HOME = Path(bench.__file__).resolve().parents[1]
"""The folder that gatebench's own packages lie in."""
BY_MODULE = "(module)"
"""Stands for the distribution of plugins that a plan names as MODULE:CLASS."""
HANDED_OVER = "(this program)"
"""Stands for the distribution of objects that the running program made itself."""


@dataclass(frozen=True)
class Provider:
    """One entry point.

    Attributes:
        kind: a key of `GROUPS`.
        name: as written in a plan.
        value: "module:attribute" or "module".
        distribution: who provides it.
        conflict: why the bare name is refused, "" if it is unique; a qualified name,
            "distribution/name", works unless that distribution gives the name to two classes.
    """

    kind: str
    name: str
    value: str
    distribution: str
    conflict: str = ""

    @property
    def module(self) -> str:
        """The module part of `value`."""
        return self.value.partition(":")[0]

    def load(self) -> Any:
        """Import and return the object.

        Raises:
            PluginError: the import failed, in whatever way; the message names plugin, distribution
                and cause.
        """
        self._check_own()
        try:
            return EntryPoint(self.name, self.value, GROUPS[self.kind]).load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may raise anything on import, SystemExit too
            raise PluginError(
                f"{self.kind} {self.name!r} (from {self.distribution}) cannot be imported: "
                f"{in_words(error)}",
                hint=f"it is {self.value}; 'gatebench doctor' shows the health of every plugin",
            ) from error

    def error(self) -> str | None:
        """Why it cannot be used, or None; imports it."""
        if self.conflict:
            return self.conflict
        try:
            self.load()
        except PluginError as error:
            return error.message
        return None

    def facts(self, *, imports: bool = True) -> ClassFacts:
        """Docstring, parameters, presets and class constants, read from the source.

        Args:
            imports: import it where the source does not tell.

        Raises:
            PluginError: it cannot be imported, or may not be and has to.
        """
        self._check_own()
        own = self.distribution == HOME_DISTRIBUTION  # which stays as it is
        return _facts(self, imports, () if own else stamps())

    def _check_own(self) -> None:
        """Refuse what would run under the name of one of gatebench's own plugins without being it.

        Raises:
            PluginError: a package of the same name, such as a project's own `attacks`, comes first.
        """
        if self.distribution != HOME_DISTRIBUTION:
            return
        top = self.module.partition(".")[0]
        for file in (getattr(sys.modules.get(top), "__file__", None), first_found(top, *places())):
            if file is not None and not Path(file).resolve().is_relative_to(_HOME):
                raise PluginError(
                    f"{self.kind} {self.name!r} (from {self.distribution}) is hidden: the package "
                    f"{top!r} that Python finds first is {file}",
                    hint=f"rename that {top!r}, or run where it does not come first",
                )

    def unread(self) -> Any:
        """Stands for `load` where nothing may be imported."""
        raise PluginError(
            "only importing it would tell",
            hint=f"'gatebench list {self.kind}s {self.name}' imports it",
        )


@dataclass(frozen=True)
class HandedOver(Provider):
    """An object of the running program, found as "(this program)/NAME" while it is handed over.

    Attributes:
        make: returns the object, or a copy of it; called as the class would be.
        told: what `facts` returns.
    """

    make: Callable[..., Any] = field(default=lambda: None, compare=False)
    told: ClassFacts = field(default_factory=lambda: ClassFacts("", {}), compare=False)

    def load(self) -> Any:
        """What makes the object."""
        return self.make

    def facts(self, *, imports: bool = True) -> ClassFacts:
        """What it was handed over with; nothing is read."""
        return self.told


_handed_over: dict[tuple[str, str], HandedOver] = {}


@contextlib.contextmanager
def handing_over(objects: Iterable[HandedOver]) -> Iterator[None]:
    """Let `find` know objects of this program inside a `with` block.

    Args:
        objects: of distribution `HANDED_OVER`; no two of one kind share a name.
    """
    new = {(each.kind, each.name): each for each in objects}
    _handed_over.update(new)
    try:
        yield
    finally:
        for key in new:
            _handed_over.pop(key, None)


@functools.lru_cache(maxsize=1024)
def _facts(provider: Provider, imports: bool, stamp: tuple[object, ...]) -> ClassFacts:
    module, _, name = provider.value.partition(":")
    who = f"{provider.kind} {provider.name!r} (from {provider.distribution})"
    try:
        found = read_class(module, name, provider.load if imports else provider.unread)
    except PluginError:
        raise
    except Exception as error:  # annotations are a plugin's own code too
        raise PluginError(f"{who} cannot be read: {in_words(error)}") from error
    if wrong := wrong_constant(found):
        raise PluginError(f"{who} breaks its contract: {wrong}")
    return found


@functools.cache
def providers(kind: str) -> tuple[Provider, ...]:
    """All providers of a kind, sorted by name; two of one name say so in `conflict`."""
    return _providers(tuple(sys.path))[kind]


@functools.lru_cache(maxsize=4)
def _providers(path: tuple[str, ...]) -> dict[str, tuple[Provider, ...]]:
    """The providers of every kind, of what is installed on this search path.

    The metadata of all distributions are read once for all kinds, and again only when the search
    path is another one: what is installed meanwhile is seen by the next process.
    """
    points = _points()
    owners: dict[Distribution | None, str] = {}  # a name is parsed from a file of metadata
    for point in points:
        if point.dist not in owners:
            owners[point.dist] = _distribution(point)
    return {
        kind: _of_kind(kind, [point for point in points if point.group == group], owners)
        for kind, group in GROUPS.items()
    }


def _of_kind(
    kind: str, points: list[EntryPoint], owners: dict[Distribution | None, str]
) -> tuple[Provider, ...]:
    """The providers of one kind.

    Args:
        kind: one of `GROUPS`.
        points: its entry points.
        owners: the names of their distributions.
    """
    found: dict[str, dict[str, dict[str, None]]] = {}  # name, distribution, values in their order
    for point in points:
        found.setdefault(point.name, {}).setdefault(owners[point.dist], {})[point.value] = None
    rows = []
    for name, owned in sorted(found.items()):
        conflict = ""
        if len(owned) > 1:
            choices = " or ".join(f"'{owner}/{name}'" for owner in sorted(owned))
            all_of_them = " and by ".join(sorted(owned))
            conflict = f"{kind} {name!r} is provided by {all_of_them}; write {choices}"
        for owner, values in owned.items():
            said = conflict or (_twice(kind, name, owner, values) if len(values) > 1 else "")
            rows += [Provider(kind, name, value, owner, said) for value in values]
    return tuple(rows)


def _twice(kind: str, name: str, owner: str, values: Iterable[str]) -> str:
    """What is said where one distribution gives a name to several classes: which of them would be
    meant is nowhere stated, and no qualified name tells them apart."""
    classes = " and as ".join(values)
    return f"{kind} {name!r} is provided by {owner} twice, as {classes}; rename one of them there"


def names(kind: str) -> list[str]:
    """The names that a plan may use for this kind."""
    return [
        f"{row.distribution}/{row.name}" if row.conflict else row.name for row in providers(kind)
    ]


def find(kind: str, name: str, *, where: str | None = None) -> Provider:
    """The provider of a name, plain or qualified ("distribution/name").

    Raises:
        UnknownName: no package provides it; names the nearest.
        PluginError: several do, or one does twice.
    """
    owner, _, plain = name.rpartition("/")
    if owner == BY_MODULE and is_module_class(plain):
        return by_module(kind, plain, where=where)
    if owner == HANDED_OVER and (kind, plain) in _handed_over:
        return _handed_over[kind, plain]
    rows = [
        row
        for row in providers(kind)
        if row.name == plain and (not owner or row.distribution == owner)
    ]
    if not rows:
        raise UnknownName({"dataset": "data set"}.get(kind, kind), name, names(kind), where=where)
    if len(rows) > 1:
        said, first = rows[0].conflict, rows[0].distribution
        if all(row.distribution == first for row in rows):
            said = _twice(kind, plain, first, [row.value for row in rows])
        raise PluginError(f"{where + ': ' if where else ''}{said}")
    return rows[0]


_LONGEST = 300
"""Characters of MODULE:CLASS."""
_CONTRACTS = {"target": "Target", "attack": "Attack", "defense": "Defense"}
_MODULE_CLASS = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_module_class(name: str) -> bool:
    """Whether a name has the form MODULE:CLASS, and there is such a module; imports nothing.

    Modules are looked up where Python looks, and in the working folder.
    """
    if _MODULE_CLASS.fullmatch(name) is None or len(name) > _LONGEST:
        return False
    look_here()
    return source_file(name.partition(":")[0]) is not None


_added: list[str] = []
"""The working folder, where it was put at the end of the search path."""


def look_here() -> None:
    """Let modules be found in the working folder, and no longer in one that was it before."""
    here = working_folder()
    if _added and _added != [here]:
        former = _added.pop()
        if former in sys.path:
            sys.path.remove(former)
    if here and here not in sys.path and "" not in sys.path:
        sys.path.append(here)
        _added[:] = [here]


def by_module(kind: str, name: str, *, where: str | None = None) -> Provider:
    """The provider of a class that is named as MODULE:CLASS, without importing it.

    Only a class whose source derives from the contract of its kind is one, so that no plan imports
    anything else.

    Raises:
        PluginError: there is no such class, or it is no plugin of this kind.
    """
    module, _, attribute = name.partition(":")
    place = f"{where}: " if where else ""
    try:
        found = find_class(read_module(module), attribute)
        contracts = {base.node.name for base in found.lineage if base.is_contract}
    except Unreadable as error:
        raise PluginError(
            f"{place}there is no class {attribute!r} in the source of module {module!r}, which is "
            f"{source_file(module)}"
        ) from error
    if _CONTRACTS.get(kind) not in contracts:
        raise PluginError(f"{place}{name} does not derive from bench.api.{_CONTRACTS.get(kind)}")
    return Provider(kind, name, name, BY_MODULE)


def load(kind: str, name: str) -> Any:
    """The object itself, imported."""
    return find(kind, name).load()


def _points() -> list[EntryPoint]:
    """The entry points of all groups of `GROUPS`; a distribution with damaged metadata has none,
    and `unreadable` names it."""
    try:
        every = entry_points()
        return [point for group in GROUPS.values() for point in every.select(group=group)]
    except Exception:  # one damaged file among all that are installed
        return [
            point
            for found in distributions()
            if _is_readable(found)
            for group in GROUPS.values()
            for point in found.entry_points.select(group=group)
        ]


def unreadable() -> list[str]:
    """Installed distributions whose entry points cannot be read; nothing of them is found."""
    return sorted(_called(one) for one in distributions() if not _is_readable(one))


def _is_readable(distribution: Distribution) -> bool:
    try:
        return distribution.entry_points is not None
    except Exception:  # what parses the metadata raises many kinds on damaged files
        return False


def _called(distribution: Distribution) -> str:
    try:
        return str(distribution.metadata["Name"] or "unknown")
    except Exception:  # its other metadata may be damaged too
        return "unknown"


def _distribution(point: EntryPoint) -> str:
    """The name of who provides it; "unknown" where its metadata do not say."""
    return HOME_DISTRIBUTION if point.dist is None else _called(point.dist)
