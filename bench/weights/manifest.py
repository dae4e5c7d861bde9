"""Trained weights: manifests that name them, digests that vouch for them, safetensors that hold them.

A manifest is a file `manifest.toml` with one table for each set of weights, beside the safetensors files. Packages ship
theirs through the entry-point group `gatebench.weights`; a user's own lies in `GATEBENCH_HOME/weights`. Nothing here
unpickles anything, and nothing imports torch before tensors are asked for.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import DiskError, PlanError, UnknownName, WeightsError
from bench.files.atomic import write_atomic
from bench.files.home import weights_home
from bench.files.toml import dump_tables
from bench.plugins import registry

if TYPE_CHECKING:
    from torch import Tensor, nn
from bench.files.locks import locked_folder

MANIFEST = "manifest.toml"
NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,95}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\.safetensors")
_RECORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]*\.json")
_HEAD = "Weights of gatebench: one table a set. Written by 'gatebench train' and 'gatebench weights import'."


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One set of weights, as its manifest describes it; measured fields are None where nobody measured.

    Attributes:
        name: as written in a plan. folder: where the file lies. origin: "gatebench", a plugin, or "own".
        file, sha256, bytes: the safetensors file, its digest (hex) and size.
        target, params: the network: name in the registry and parameters.
        licence: SPDX identifier, or "unknown".
        dataset, recipe, stage, seed, epochs, seconds: how it was trained.
        accuracy, static_accuracy: on the test images; of the static twin trained by the same recipe.
        clean_saving: 1 - executed MACs / ceiling on clean test images. ceiling: MACs.
        spread: standard deviation of executed MACs over test images, as a share of the ceiling.
        gates_varying: gates open for 5 to 95 % of the test images.
        opening_rates: share of images that open each gate; where gates form a map (channels, positions), the map's mean.
        record, record_sha256: the file with what `read_record` returns, and its digest.
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
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The safetensors file."""
        return self.folder / self.file


@dataclass(frozen=True)
class Manifest:
    """A manifest that was looked for: its entries, or the reason why it cannot be read (`problem`)."""

    origin: str
    folder: Path
    entries: Mapping[str, Entry]
    problem: str = ""


def manifests() -> list[Manifest]:
    """Every manifest there is: those of installed packages, then the user's own. A broken one is a row, not a crash."""
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
    """All weights by name; where two manifests name the same, the first keeps the bare name and the others are "origin/name"."""
    found: dict[str, Entry] = {}
    for manifest in manifests():
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
    known = entries()
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
        WeightsError: it is not TOML, or a table lacks a key or has a value of the wrong type; lists every mistake.
    """
    path = folder / MANIFEST
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise WeightsError(f"{path}: {error}") from error
    problems: list[str] = []
    found = {
        name: _entry(name, table, folder, origin, problems) for name, table in document.items()
    }
    if problems:
        raise WeightsError(f"{path}: " + "; ".join(problems))
    return {name: entry for name, entry in found.items() if entry is not None}


def read_bytes(entry: Entry) -> bytes:
    """The whole weights file, after its digest was checked.

    Raises:
        WeightsError: it is missing, cut short or altered.
    """
    again = "restore the file, or train or import it again"
    try:
        data = entry.path.read_bytes()
    except OSError as error:
        raise WeightsError(
            f"weights {entry.name!r}: {entry.path}: {error.strerror}", hint=again
        ) from error
    if entry.bytes is not None and len(data) < entry.bytes:
        raise WeightsError(
            f"weights {entry.name!r}: {entry.path} is cut short: {len(data)} of {entry.bytes} bytes",
            hint=again,
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        message = f"{entry.path} was altered: its sha256 is {digest[:12]}…, the manifest says {entry.sha256[:12]}…"
        raise WeightsError(f"weights {entry.name!r}: {message}", hint=again)
    return data


def read_state(entry: Entry) -> dict[str, Tensor]:
    """The tensors by name, on the CPU; the bytes that are parsed are the bytes whose digest was checked.

    Raises:
        WeightsError: the file is missing, cut short, altered, or no safetensors file.
    """
    import safetensors.torch

    data = read_bytes(entry)
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # safetensors raises a class of its own, and others for odd headers
        raise WeightsError(
            f"weights {entry.name!r}: {entry.path} is no safetensors file: {error}"
        ) from error


def read_record(entry: Entry) -> dict[str, Any] | None:
    """What was noted while training and measuring, too long for the manifest; None where nothing was.

    Keys: "curves" (metric -> number of each epoch), "rates" (of each unit, the share of test images that run it) and
    "owners" ([name, kind, shape, number of units] of each owner of units, in order).

    Raises:
        WeightsError: the file is missing or altered.
    """
    if not entry.record:
        return None
    path = entry.folder / entry.record
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"weights {entry.name!r}: {path}: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != entry.record_sha256:
        raise WeightsError(f"weights {entry.name!r}: {path} was altered")
    found: dict[str, Any] = json.loads(data)
    return found


def add_entry(
    folder: Path,
    name: str,
    state: Mapping[str, Tensor],
    values: Mapping[str, Any],
    record: Mapping[str, Any] | None = None,
) -> Entry:
    """Write tensors and their table into `folder`, replacing an entry of that name.

    The same tensors give the same bytes. Each of the files is there whole or not at all; two processes that add to
    one folder wait for each other.

    Args:
        folder: made if it is not there. name: small letters, digits and . _ @ + -.
        state: name -> tensor, all of them finite.
        values: keys of `Entry` (target at least; file, sha256 and bytes are filled in) and any others worth keeping.
        record: as `read_record` returns it; plain values.

    Raises:
        PlanError: the name cannot be used. WeightsError: a tensor is not finite, or a value has the wrong type.
        DiskError: the disk refused.
    """
    import safetensors.torch
    import torch

    if not NAME.fullmatch(name):
        raise PlanError(
            f"{name!r} cannot name weights: small letters, digits and . _ @ + -, at most 96, a letter or digit first"
        )
    broken = [
        key
        for key, value in state.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise WeightsError(f"weights {name!r} are not finite: {_list(broken)}")
    plain = {
        key: value.detach().to("cpu").contiguous().clone() for key, value in sorted(state.items())
    }
    data = safetensors.torch.save(plain)
    table = {
        "file": f"{name}.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        **{
            key: value
            for key, value in values.items()
            if key not in ("file", "sha256", "bytes", "more")
        },
        **values.get("more", {}),
    }
    noted = b"" if record is None else (json.dumps(record, sort_keys=True) + "\n").encode()
    if noted:
        table |= {"record": f"{name}.json", "record_sha256": hashlib.sha256(noted).hexdigest()}
    problems: list[str] = []
    entry = _entry(name, table, folder, "own", problems)
    if entry is None:
        raise WeightsError(f"weights {name!r}: " + "; ".join(problems))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DiskError(f"cannot make {folder}: {error.strerror}") from error
    with locked_folder(folder):
        tables = {known.name: _table(known) for known in read_manifest(folder).values()}
        tables[name] = _table(entry)
        write_atomic(entry.path, data)
        if noted:
            write_atomic(folder / entry.record, noted)
        write_atomic(folder / MANIFEST, dump_tables(dict(sorted(tables.items())), _HEAD).encode())
    return entry


def load_into(target: nn.Module, state: Mapping[str, Tensor], name: str = "these weights") -> None:
    """Put tensors into a network, all of them or none.

    Args:
        target: whose `state_dict` says what is expected. state: name -> tensor. name: for the message.

    Raises:
        WeightsError: listing everything missing, unexpected, misshapen or not finite.
    """
    import torch

    expected = target.state_dict()
    problems = [
        f"missing: {key} {list(value.shape)}" for key, value in expected.items() if key not in state
    ]
    problems += [
        f"unexpected: {key} {list(value.shape)}"
        for key, value in state.items()
        if key not in expected
    ]
    for key in expected.keys() & state.keys():
        value = state[key]
        if value.shape != expected[key].shape:
            problems.append(
                f"misshapen: {key} is {list(value.shape)}, expected {list(expected[key].shape)}"
            )
        elif value.is_floating_point() != expected[key].is_floating_point():
            problems.append(
                f"of the wrong type: {key} is {value.dtype}, expected {expected[key].dtype}"
            )
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            problems.append(f"not finite: {key}")
    if problems:
        raise WeightsError(
            f"{name} do not fit {type(target).__name__}:\n"
            + "\n".join(f"  {problem}" for problem in sorted(problems))
        )
    target.load_state_dict(
        {key: value.to(expected[key].dtype) for key, value in state.items()}, strict=True
    )


def _try_manifest(folder: Path, origin: str, *, required: bool) -> Manifest:
    try:
        if required and not (folder / MANIFEST).is_file():
            return Manifest(origin, folder, {}, f"{folder / MANIFEST} is not there")
        return Manifest(origin, folder, read_manifest(folder, origin))
    except WeightsError as error:
        return Manifest(origin, folder, {}, error.message)


_TYPES: dict[str, tuple[type, ...]] = {
    "file": (str,), "sha256": (str,), "target": (str,), "bytes": (int,), "licence": (str,), "params": (dict,), "dataset": (str,),
    "recipe": (str,), "stage": (str,), "seed": (int,), "accuracy": (int, float), "static_accuracy": (int, float),
    "clean_saving": (int, float), "spread": (int, float), "ceiling": (int,), "gates_varying": (int,), "opening_rates": (list, tuple),
    "epochs": (int,), "seconds": (int, float), "record": (str,), "record_sha256": (str,),
}  # fmt: skip


def _entry(
    name: str, table: object, folder: Path, origin: str, problems: list[str]
) -> Entry | None:
    """One checked table; what is wrong with it goes to `problems`, and nothing comes back."""
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
    if not wrong and not _FILE.fullmatch(table["file"]):
        wrong.append(f"[{name}] file = {table['file']!r} is no plain name of a safetensors file")
    if not wrong and not re.fullmatch(r"[0-9a-f]{64}", table["sha256"]):
        wrong.append(f"[{name}] sha256 is not 64 hexadecimal digits")
    if not wrong and not _RECORD.fullmatch(table.get("record", "none.json")):
        wrong.append(f"[{name}] record = {table['record']!r} is no plain name of a JSON file")
    if wrong:
        problems += wrong
        return None
    known = {key: value for key, value in table.items() if key in _TYPES and value is not None}
    if "opening_rates" in known:
        known["opening_rates"] = tuple(known["opening_rates"])
    more = {key: value for key, value in table.items() if key not in _TYPES and value is not None}
    return Entry(name=name, folder=folder, origin=origin, more=more, **known)


def _table(entry: Entry) -> dict[str, Any]:
    """An entry as its table, keys in the order of `Entry`."""
    skipped = ("name", "folder", "origin", "more")
    table = {one.name: getattr(entry, one.name) for one in fields(entry) if one.name not in skipped}
    return {**{key: value for key, value in table.items() if value not in (None, "")}, **entry.more}


def _list(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
