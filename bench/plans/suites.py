"""Named plans, shipped as package data: `gatebench run quickstart`.

A suite is a TOML file in the folder of a module that a distribution names under the entry-point
group `gatebench.suites`.
"""

from __future__ import annotations

import re
from pathlib import Path

from bench.errors import UnknownName
from bench.plugins import registry
from bench.plugins.sources import source_file


def found() -> dict[str, Path]:
    """All suites by name."""
    files: dict[str, Path] = {}
    for provider in registry.providers("suite"):
        source = source_file(provider.module)
        for path in sorted(source.parent.glob("*.toml")) if source else ():
            files.setdefault(path.stem, path)
    return dict(sorted(files.items()))


def find(name: str) -> Path:
    """The file of a suite.

    Raises:
        UnknownName: naming the nearest.
    """
    known = found()
    if name not in known:
        raise UnknownName("suite", name, known)
    return known[name]


def summary(path: Path) -> str:
    """The first comment line of a suite: what it is for."""
    match = re.search(r"^#\s*(.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1].strip() if match else ""
