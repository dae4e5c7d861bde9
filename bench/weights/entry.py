"""One set of weights as its table in a manifest describes it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.weights.parts import WeightsPart, parse_part

NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,95}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\.safetensors")
_RECORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\.json")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set of weights, as its manifest describes it; what was not measured is None.

    Attributes:
        name: as written in a plan.
        folder: where the file lies.
        origin: "gatebench", a plugin, or "own".
        file: the safetensors file.
        sha256: its digest (hex).
        bytes: its size.
        target: the network, by its name in the registry.
        params: its parameters.
        licence: SPDX identifier, or "unknown".
        dataset: that it was trained on; "" where nobody said.
        recipe: that it was trained by, or "imported".
        stage: of the recipe.
        seed: of the training.
        epochs: of the training.
        seconds: that the training took.
        accuracy: on the test images, in [0,1].
        static_accuracy: of the static twin trained by the same recipe.
        clean_saving: 1 - executed MACs / ceiling on clean test images.
        ceiling: MACs with everything running.
        spread: standard deviation of executed MACs over test images, as a share of the ceiling.
        gates_varying: gates open for 5 to 95 % of the test images.
        opening_rates: share of images that open each gate; where gates form a map (channels,
            positions), the map's mean.
        record: the file with what `read_record` returns, "" where there is none.
        record_sha256: its digest (hex).
        parts: what lies elsewhere; the file holds the rest.
        more: further keys of the table.
    """

    name: str
    folder: Path
    origin: str
    file: str
    sha256: str
    target: str
    bytes: int | None = None
    licence: str = "unknown"
    params: Mapping[str, Any] = field(default_factory=dict)
    dataset: str = ""
    recipe: str = ""
    stage: str = ""
    seed: int | None = None
    accuracy: float | None = None
    static_accuracy: float | None = None
    clean_saving: float | None = None
    spread: float | None = None
    ceiling: int | None = None
    gates_varying: int | None = None
    opening_rates: tuple[float, ...] | None = None
    epochs: int | None = None
    seconds: float | None = None
    record: str = ""
    record_sha256: str = ""
    parts: tuple[WeightsPart, ...] = ()
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The safetensors file."""
        return self.folder / self.file

    @property
    def digest(self) -> str:
        """sha256 (hex) that vouches for all tensors: of the file, and of what it says of parts."""
        if not self.parts:
            return self.sha256
        said = [self.sha256, *(_identity(part) for part in self.parts)]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def _identity(part: WeightsPart) -> list[object]:
    """What decides the tensors of a part, wherever its source lies."""
    return [part.prefix, part.sha256, part.inside, part.match, list(part.rows)]


_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("file", "sha256", "target", "licence", "dataset", "recipe", "stage"), (str,)),
    **dict.fromkeys(("record", "record_sha256"), (str,)),
    **dict.fromkeys(("bytes", "seed", "ceiling", "gates_varying", "epochs"), (int,)),
    **dict.fromkeys(("accuracy", "static_accuracy", "clean_saving", "spread"), (int, float)),
    "seconds": (int, float),
    "params": (dict,),
    "parts": (dict,),
    "opening_rates": (list, tuple),
}


_SHARES = ("accuracy", "static_accuracy")
_LARGEST = 2**63


def _is_rate(value: object) -> bool:
    return type(value) in (int, float) and 0 <= float(str(value)) <= 1


def parse_entry(
    name: str, table: object, folder: Path, origin: str, problems: list[str]
) -> Entry | None:
    """One table of a manifest, checked.

    Args:
        name: of the weights.
        table: as TOML has it.
        folder: of the manifest.
        origin: of the entry.
        problems: hears what is wrong with the table.

    Returns:
        The entry; None where anything is wrong.
    """
    if not isinstance(table, Mapping):
        problems.append(f"{name!r} is no table")
        return None
    wrong = [f"[{name}] has no {key!r}" for key in ("file", "sha256", "target") if key not in table]
    for key, value in table.items():
        kinds = _TYPES.get(key)
        if value is None or kinds is None:
            continue
        if not isinstance(value, kinds) or isinstance(value, bool):
            wrong.append(f"[{name}] {key} = {value!r} is of the wrong type")
        elif isinstance(value, float) and not math.isfinite(value):
            wrong.append(f"[{name}] {key} is not finite")
        elif isinstance(value, int) and abs(value) >= _LARGEST:
            wrong.append(f"[{name}] {key} is a whole number beyond 64 bits")
        elif key in _SHARES and not _is_rate(value):
            wrong.append(f"[{name}] {key} = {value!r} is no share, a number in [0,1]")
        elif key == "opening_rates" and not all(_is_rate(one) for one in table[key]):
            wrong.append(f"[{name}] {key} holds something else than numbers in [0,1]")
    if not wrong and not _FILE.fullmatch(table["file"]):
        wrong.append(f"[{name}] file = {table['file']!r} is no plain name of a safetensors file")
    if not wrong and not re.fullmatch(r"[0-9a-f]{64}", table["sha256"]):
        wrong.append(f"[{name}] sha256 is not 64 hexadecimal digits")
    if not wrong and not _RECORD.fullmatch(table.get("record", "none.json")):
        wrong.append(f"[{name}] record = {table['record']!r} is no plain name of a JSON file")
    parts = [
        parse_part(prefix, part, name, wrong)
        for prefix, part in (table.get("parts", {}) if not wrong else {}).items()
    ]
    if wrong:
        problems += wrong
        return None
    known = {key: value for key, value in table.items() if key in _TYPES and value is not None}
    if "opening_rates" in known:
        known["opening_rates"] = tuple(known["opening_rates"])
    known["parts"] = tuple(part for part in parts if part is not None)
    more = {key: value for key, value in table.items() if key not in _TYPES and value is not None}
    return Entry(name=name, folder=folder, origin=origin, more=more, **known)


def entry_table(entry: Entry) -> dict[str, Any]:
    """An entry as its table, keys in the order of `Entry`."""
    skipped = ("name", "folder", "origin", "more", "parts")
    table = {one.name: getattr(entry, one.name) for one in fields(entry) if one.name not in skipped}
    if entry.parts:
        table["parts"] = {part.prefix: part.table() for part in entry.parts}
    return {**{key: value for key, value in table.items() if value not in (None, "")}, **entry.more}
