"""What plugins keep for themselves between calls: counters, caches and memories of theirs.

A cache is harmless, a counter may not be: an attack that counts its calls makes other images in the
second batch than in the first, and so other rows with another number of workers. What was kept is
compared before and after a shard; where it differs, the first batch is attacked once more, and a
later one by the attack as a new process would make it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence, Set
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bench.contracts.attack import Attack
from bench.contracts.cell import Cell
from bench.errors import GatebenchError
from bench.evaluation.build import build
from bench.evaluation.withheld import PutAway
from bench.plugins.registry import HANDED_OVER, HOME_DISTRIBUTION

MANY = 100_000
"""Objects of one attribute that are looked at, items of one container, elements of one array."""

_OWN = {"bench", "attacks", "targets", "reports"}
_CACHED = functools._lru_cache_wrapper
_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def kept_state(cell: Cell, attack: Attack) -> dict[str, str]:
    """Digests of the data that a cell's plugins keep: the attributes of the attack, of its classes
    and of the modules that the plugins are in.

    Args:
        cell: whose plugins are looked at; those of gatebench are not.
        attack: the instance that attacks.

    Returns:
        "MODULE.NAME" or "CLASS.NAME" -> digest; functions, classes and modules have none.
    """
    found: dict[str, str] = {}
    foreign = [part for part in cell.parts.values() if part.distribution != HOME_DISTRIBUTION]
    if not foreign:
        return found
    for module in _modules({part.value.partition(":")[0] for part in foreign}):
        found.update(_digests(module.__name__, vars(module)))
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__ == module.__name__:
                found.update(_digests(f"{module.__name__}.{value.__qualname__}", vars(value)))
    if cell.attack in foreign:
        found.update(_digests(type(attack).__qualname__, getattr(attack, "__dict__", {})))
    return found


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The names whose data differ, or that came or went, in order."""
    return sorted(name for name in {*before, *after} if before.get(name) != after.get(name))


@contextlib.contextmanager
def imported_anew(cell: Cell) -> Iterator[Attack | None]:
    """The attack of a cell as it is made in a process that has run nothing of its package.

    Inside of the `with` block the package is imported a second time; afterwards the modules are
    those that there were.

    Args:
        cell: whose attack is made.

    Yields:
        The attack; None for one of gatebench or of the running program, and for a package that
        cannot be imported twice.
    """
    part = cell.attack
    root = part.value.partition(":")[0].partition(".")[0]
    if part.distribution in (HOME_DISTRIBUTION, HANDED_OVER) or root in {*_OWN, "__main__", ""}:
        yield None
        return
    before = _taken_out(root)
    try:
        try:
            made = build("attack", part)
        except GatebenchError:
            made = None
        yield made if isinstance(made, Attack) else None
    finally:
        _taken_out(root)
        sys.modules.update(before)


def _taken_out(root: str) -> dict[str, ModuleType]:
    """The modules of a package, which are no longer known to be imported."""
    names = [name for name in sys.modules if name.partition(".")[0] == root]
    return {name: sys.modules.pop(name) for name in names}


def _modules(names: Set[str]) -> Iterator[ModuleType]:
    """The modules of these names, and those of the packages that they are in; gatebench's own keep
    what a run needs, the attacked network among it."""
    roots = {name.partition(".")[0] for name in names} - _OWN
    for name in sorted(name for name in sys.modules if name.partition(".")[0] in roots):
        module = sys.modules[name]
        if isinstance(module, ModuleType):
            yield module


def _digests(owner: str, values: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, value in list(values.items()):
        if not (name.startswith("__") or isinstance(value, type | ModuleType)):
            found[f"{owner}.{name}"] = _Digest(value).hex
    return found


class _Digest:
    """What an object holds, whatever is inside of it once.

    Of what is neither plain data, a container, an array nor made of such by its class
    (`object.__reduce_ex__`: queues, counters, iterators and random generators are), the type alone.

    Args:
        value: looked at, never changed.
    """

    def __init__(self, value: object) -> None:
        self._digest = hashlib.sha256()
        self._met: dict[int, object] = {}  # kept alive, so that no two have one id
        with contextlib.suppress(Exception):  # a plugin's own classes may raise when looked at
            self._write(value)
        self.hex = self._digest.hexdigest()

    def _write(self, value: object) -> None:
        self._put(type(value).__qualname__)
        if isinstance(value, _PLAIN):
            self._put(repr(value))
            return
        if id(value) in self._met or len(self._met) > MANY:
            return
        self._met[id(value)] = value
        if isinstance(value, torch.Tensor):
            self._write_tensor(value)
        elif isinstance(value, np.ndarray) and value.dtype != object:
            self._put(f"{value.shape}{value.dtype}")
            self._digest.update(value.reshape(-1)[:MANY].tobytes())
        elif isinstance(value, torch.Generator):
            self._digest.update(value.get_state().numpy().tobytes())
        elif isinstance(value, Mapping):
            self._write_all([each for pair in value.items() for each in pair])
        elif isinstance(value, Set):
            self._write_all(sorted(map(repr, value)))
        elif isinstance(value, list | tuple):
            self._write_all(value)
        elif isinstance(value, _CACHED):
            self._put(str(value.cache_info().currsize))
        elif not (isinstance(value, type | ModuleType) or callable(value)):
            self._write_parts(value)

    def _put(self, text: str) -> None:
        self._digest.update(text.encode("utf-8", "backslashreplace") + b"\0")

    def _write_all(self, values: Sequence[object]) -> None:
        self._put(str(len(values)))
        for value in values[:MANY]:
            self._write(value)

    def _write_tensor(self, value: torch.Tensor) -> None:
        self._put(f"{tuple(value.shape)}{value.dtype}")
        if isinstance(value, PutAway):  # there is nothing in it, and no use of it
            return
        if value.layout == torch.strided and value.device.type != "meta":
            with torch._C.DisableTorchFunctionSubclass():
                first = value.detach().reshape(-1)[:MANY].cpu().contiguous()
                self._digest.update(first.view(torch.uint8).numpy().tobytes())

    def _write_parts(self, value: object) -> None:
        parts: Any
        try:
            parts = value.__reduce_ex__(2)
        except Exception:  # files, locks, and whatever refuses to be copied
            parts = getattr(value, "__dict__", {})
        if isinstance(parts, tuple):
            made_by, *held = parts
            self._put(getattr(made_by, "__qualname__", ""))
            # The items of lists and dicts come as iterators, which are of this call alone.
            parts = [list(each) if hasattr(each, "__next__") else each for each in held]
        self._write(parts)
