"""Manifests: which weights there are, and where.

A manifest is a file `manifest.toml` with one table for each set of weights, beside the safetensors
files. Packages ship theirs through the entry-point group `gatebench.weights`; a user's own lies in
`GATEBENCH_HOME/weights`.
"""

from __future__ import annotations

import functools
import importlib.util
import tomllib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import UnknownName, WeightsError
from bench.files.home import weights_home
from bench.files.regular import read_regular
from bench.files.text import text_of
from bench.plugins import registry
from bench.weights.entry import Entry, parse_entry

MANIFEST = "manifest.toml"


@dataclass(frozen=True)
class Manifest:
    """A manifest that was looked for.

    Attributes:
        origin: "own", or the distribution that ships it.
        folder: that it lies in.
        entries: by name.
        problem: why it cannot be read, "" where it was.
    """

    origin: str
    folder: Path
    entries: Mapping[str, Entry]
    problem: str = ""


def manifests() -> list[Manifest]:
    """Every manifest, those of installed packages and then the user's own; broken ones say why."""
    found = []
    for provider in registry.providers("weights"):
        folder = module_folder(provider.module)
        if folder is None:
            found.append(
                Manifest(
                    provider.distribution, Path(), {}, f"the package {provider.module} is not there"
                )
            )
        else:
            found.append(_try_manifest(folder, provider.distribution, required=True))
    found.append(_try_manifest(weights_home(), "own", required=False))
    return found


def module_folder(module: str) -> Path | None:
    """The folder of a package, found without importing it or its parents; None if there is none."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    for base in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(base).joinpath(*rest)
        if folder.is_dir():
            return folder
    return None


def entries() -> dict[str, Entry]:
    """All weights by name; a name that an earlier manifest has too becomes "origin/name"."""
    return _named(manifests())


def _named(manifests: Iterable[Manifest]) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for manifest in manifests:
        for name, entry in manifest.entries.items():
            found[f"{manifest.origin}/{name}" if name in found else name] = entry
    return found


def find(name: str) -> Entry:
    """The entry of that name, bare or qualified ("own/NAME", "gatebench/NAME").

    Raises:
        UnknownName: nobody has such weights; names the nearest.
        WeightsError: it is unknown, and a manifest that may well name it cannot be read.
    """
    looked = manifests()
    known = _named(looked)
    qualified = {
        f"{manifest.origin}/{plain}": entry
        for manifest in looked
        for plain, entry in manifest.entries.items()
    }
    if name in known or name in qualified:
        return known.get(name) or qualified[name]
    broken = [manifest.problem for manifest in looked if manifest.problem]
    if broken:
        raise WeightsError(
            f"weights {name!r} are not known, but a manifest cannot be read: {'; '.join(broken)}"
        )
    unknown = UnknownName("weights", name, known)
    unknown.hint = "'gatebench weights list' shows what there is"
    raise unknown


def read_manifest(folder: Path, origin: str = "own") -> dict[str, Entry]:
    """The entries of `folder/manifest.toml`, in its order; none where there is no such file.

    Raises:
        WeightsError: it is not TOML, or a table lacks a key or has a value of the wrong type; lists
            every mistake.
    """
    path = folder / MANIFEST
    try:
        document = deepcopy(_parsed(text_of(read_regular(path))))
    except FileNotFoundError:
        return {}
    except (OSError, RecursionError, ValueError) as error:
        raise WeightsError(f"{path}: {error}") from error
    problems: list[str] = []
    found = {
        name: parse_entry(name, table, folder, origin, problems) for name, table in document.items()
    }
    if problems:
        raise WeightsError(f"{path}: " + "; ".join(problems))
    return {name: entry for name, entry in found.items() if entry is not None}


@functools.lru_cache(maxsize=8)
def _parsed(text: str) -> dict[str, Any]:
    """A manifest's tables; commands look at the same few manifests again and again."""
    return tomllib.loads(text)


def _try_manifest(folder: Path, origin: str, *, required: bool) -> Manifest:
    try:
        if required and not (folder / MANIFEST).is_file():
            return Manifest(origin, folder, {}, f"{folder / MANIFEST} is not there")
        return Manifest(origin, folder, read_manifest(folder, origin))
    except WeightsError as error:
        return Manifest(origin, folder, {}, error.message)
