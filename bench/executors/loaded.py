"""Whether the modules that this process imported are still what lies on disk.

Without workers, plugins run as they were imported once. A program that goes on, a notebook above
all, may have edited them since, or have gone to a folder with another module of that name; then
the record would name one file and the numbers would come from another.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path

from bench.errors import PluginError
from bench.executors.reads import file_digest

_loaded: dict[str, tuple[ModuleSpec | None, str]] = {}
"""Module -> its spec, which another import replaces, and the digest of its file at that time."""


def check_loaded(reads: Mapping[str, Mapping[str, str]]) -> None:
    """Refuse modules that are imported already, and not from the files that a record would name.

    Args:
        reads: kind of component -> name of what making it reads -> digest; see
            `bench.executors.reads`.

    Raises:
        PluginError: names the first such module.
    """
    for name, digest in _modules(reads):
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if module is None or not isinstance(file, str):
            continue
        spec, then = _loaded.get(name, (None, ""))
        if spec is None or spec is not module.__spec__:
            then = file_digest(Path(file))
        if then != digest:
            raise PluginError(
                f"module {name!r} is imported from {file}, and what lies there has changed since, "
                "or another file of that name comes first now",
                hint=f"importlib.reload({name}), or start Python again",
            )


def note_loaded(reads: Mapping[str, Mapping[str, str]]) -> None:
    """Keep what the modules were imported from, for the next `check_loaded`."""
    for name, digest in _modules(reads):
        module = sys.modules.get(name)
        if module is not None:
            _loaded[name] = module.__spec__, digest


def _modules(reads: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str]]:
    return [
        (name.partition(":")[2], digest)
        for found in reads.values()
        for name, digest in found.items()
        if name.startswith("module:")
    ]
