"""The files behind a manifest: safetensors that hold tensors, digests that vouch for them.

Nothing here unpickles anything, and nothing imports torch before tensors are asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import PlanError, WeightsError
from bench.files.atomic import write_together
from bench.files.locks import locked_folder
from bench.files.regular import ANY_SIZE, read_regular
from bench.files.toml import dump_tables
from bench.files.writing import make_folder
from bench.weights.entry import NAME, Entry, entry_table, parse_entry
from bench.weights.manifest import MANIFEST, find, read_manifest
from bench.weights.parts import WEIGHTS, WeightsPart, fitted
from bench.weights.sources import file_digest, locate
from bench.weights.states import check_types

if TYPE_CHECKING:
    from torch import Tensor, nn

_ELSEWHERE = "GATEBENCH_HOME names another folder, as --out of 'gatebench train' does"
_HEAD = (
    "Weights of gatebench: one table a set. "
    "Written by 'gatebench train' and 'gatebench weights import'."
)


def read_bytes(entry: Entry) -> bytes:
    """The whole weights file, after its digest was checked.

    Raises:
        WeightsError: it is missing, cut short or altered.
    """
    again = "restore the file, or train or import it again"
    try:
        data = read_regular(entry.path, ANY_SIZE)
    except OSError as error:
        raise WeightsError(
            f"weights {entry.name!r}: {entry.path}: {error.strerror or error}", hint=again
        ) from error
    if entry.bytes is not None and len(data) < entry.bytes:
        raise WeightsError(
            f"weights {entry.name!r}: {entry.path} is cut short: "
            f"{len(data)} of {entry.bytes} bytes",
            hint=again,
        )
    digest = hashlib.sha256(data).hexdigest()
    if digest != entry.sha256:
        message = (
            f"{entry.path} was altered: its sha256 is {digest[:12]}…, "
            f"the manifest says {entry.sha256[:12]}…"
        )
        raise WeightsError(f"weights {entry.name!r}: {message}", hint=again)
    return data


def read_state(entry: Entry) -> dict[str, Tensor]:
    """The tensors by name, on the CPU; what is parsed is what the digest was checked of.

    Raises:
        WeightsError: the file is missing, cut short, altered, or no safetensors file.
    """
    import safetensors.torch

    data = read_bytes(entry)
    try:
        return dict(sorted(safetensors.torch.load(data).items()))  # in no order else
    except Exception as error:  # safetensors raises a class of its own, and others for odd headers
        raise WeightsError(
            f"weights {entry.name!r}: {entry.path} is no safetensors file: {error}"
        ) from error


def check_files(entry: Entry) -> None:
    """Hold the weights file, and what its parts are read from, against their digests.

    Raises:
        NotInstalled: a part lies in a package that is not here.
        WeightsError: a file is missing, cut short or altered.
    """
    read_bytes(entry)
    for part in entry.parts:
        _source(part, entry)


def read_whole(entry: Entry, target: nn.Module) -> dict[str, Tensor]:
    """All tensors by name, those of parts included, on the CPU.

    Args:
        entry: of the weights.
        target: the network; it says how tensors that are paired by order are called.

    Raises:
        NotInstalled: a part lies in a package that is not here.
        WeightsError: a file is missing, altered, or holds something else; a part does not fit.
    """
    state = read_state(entry)
    expected = target.state_dict() if entry.parts else {}
    for part in entry.parts:
        state |= fitted(part, _read_part(part, entry), expected, entry.name)
    return state


def load_entry(target: nn.Module, entry: Entry) -> None:
    """Put weights into a network, parts that lie elsewhere included.

    Raises:
        NotInstalled, WeightsError: as `read_whole` and `load_into`.
    """
    load_into(target, read_whole(entry, target), entry.name)


def _source(part: WeightsPart, entry: Entry) -> Entry | Path:
    """What a part is read from, after its digest was checked.

    Raises:
        NotInstalled, WeightsError: it is missing, or not what the manifest was written for.
    """
    found: Entry | Path
    if part.source.startswith(WEIGHTS):
        found = find(part.source.removeprefix(WEIGHTS))
        if found.parts:
            raise WeightsError(
                f"weights {entry.name!r}: {part.source} has parts that lie elsewhere itself"
            )
        read_bytes(found)
        digest = found.digest
    else:
        try:
            found = locate(part.source, install=part.install).path
            digest = file_digest(found)
        except WeightsError as error:
            message = f"weights {entry.name!r}: {error.message}"
            raise type(error)(message, hint=error.hint) from error
    if digest != part.sha256:
        raise WeightsError(
            f"weights {entry.name!r}: {part.source} is another file than they were made with: "
            f"its sha256 is {digest[:12]}…, the manifest says {part.sha256[:12]}…",
            hint="install or restore the version that they were made with",
        )
    return found


def _read_part(part: WeightsPart, entry: Entry) -> dict[str, Tensor]:
    found = _source(part, entry)
    if isinstance(found, Entry):
        return read_state(found)
    from bench.weights.checkpoint import read_checkpoint

    return read_checkpoint(found).state


def read_record(entry: Entry) -> dict[str, Any] | None:
    """What was noted while training and measuring; None where nothing was.

    Keys: "curves" (metric -> number of each epoch), "rates" (of each unit, the share of test images
    that run it) and "owners" ([name, kind, shape, number of units] of each owner of units, in
    order).

    Raises:
        WeightsError: the file is missing, altered, or holds something else.
    """
    if not entry.record:
        return None
    path = entry.folder / entry.record
    try:
        data = read_regular(path)
    except OSError as error:
        raise WeightsError(f"weights {entry.name!r}: {path}: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != entry.record_sha256:
        raise WeightsError(f"weights {entry.name!r}: {path} was altered")
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not _is_record(found):
        raise WeightsError(f"weights {entry.name!r}: {path} is no record of a training")
    return found


def _is_record(found: Mapping[str, Any]) -> bool:
    """Whether what is there of curves, rates and owners is as `read_record` says."""
    curves, rates, owners = (found.get(name) for name in ("curves", "rates", "owners"))
    if curves is not None and not (
        isinstance(curves, dict) and all(map(_are_numbers, curves.values()))
    ):
        return False
    if rates is None and owners is None:
        return True
    counts = [
        owner[3]
        for owner in (owners if isinstance(owners, list) else ())
        if isinstance(owner, list)
        and [type(part) for part in owner] == [str, str, list, int]
        and _are_numbers(owner[2])
    ]
    return (
        _are_numbers(rates)
        and isinstance(rates, list)
        and isinstance(owners, list)
        and len(counts) == len(owners)
        and sum(counts) == len(rates)
        and min(counts, default=1) > 0
    )


def _are_numbers(values: object) -> bool:
    return isinstance(values, list) and all(type(value) in (int, float) for value in values)


def check_name(name: str) -> None:
    """Refuse what cannot name weights; files are called by it.

    Raises:
        PlanError: it has other characters, or too many.
    """
    if not NAME.fullmatch(name):
        raise PlanError(
            f"{name!r} cannot name weights: small letters, digits and . _ @ + -, at most 96, "
            "a letter or digit first"
        )


def add_entry(
    folder: Path,
    name: str,
    state: Mapping[str, Tensor],
    values: Mapping[str, Any],
    record: Mapping[str, Any] | None = None,
    parts: Sequence[WeightsPart] = (),
    replaces: Entry | Literal["any"] | None = "any",
) -> Entry:
    """Write tensors and their table into `folder`, replacing an entry of that name.

    The same tensors give the same bytes. Where the disk is full, what was there stays; two
    processes that add to one folder wait for each other.

    Args:
        folder: made if it is not there.
        name: small letters, digits and . _ @ + -.
        state: name -> tensor, all of them finite; those of `parts` are not written.
        values: keys of `Entry` (target at least; file, sha256 and bytes are filled in) and any
            others worth keeping.
        record: as `read_record` returns it; plain values.
        parts: what lies elsewhere.
        replaces: the entry of that name that is replaced, None where there is none; another one
            that is there by now is kept.

    Raises:
        PlanError: the name cannot be used.
        WeightsError: a tensor is not finite or of a type that weights are not trained in, a value
            has the wrong type, or the entry is another one than `replaces`.
        DiskError: the disk refused.
    """
    import safetensors.torch
    import torch

    check_name(name)
    try:
        check_types(state)
    except WeightsError as error:
        raise WeightsError(f"weights {name!r}: {error.message}", hint=error.hint) from error
    broken = [
        key
        for key, value in state.items()
        if value.is_floating_point() and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise WeightsError(f"weights {name!r} are not finite: {_list(broken)}")
    elsewhere = tuple(part.prefix for part in parts)
    plain = {
        key: value.detach().to("cpu").contiguous().clone()
        for key, value in sorted(state.items())
        if not (elsewhere and key.startswith(elsewhere))
    }
    data = safetensors.torch.save(plain)
    table = {
        "file": f"{name}.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        **{
            key: value
            for key, value in values.items()
            if key not in ("file", "sha256", "bytes", "more", "parts")
        },
        **values.get("more", {}),
    }
    if parts:
        table["parts"] = {part.prefix: part.table() for part in parts}
    noted = b"" if record is None else (json.dumps(record, sort_keys=True) + "\n").encode()
    if noted:
        table |= {"record": f"{name}.json", "record_sha256": hashlib.sha256(noted).hexdigest()}
    problems: list[str] = []
    entry = parse_entry(name, table, folder, "own", problems)
    if entry is None:
        raise WeightsError(f"weights {name!r}: " + "; ".join(problems))
    make_folder(folder, elsewhere=_ELSEWHERE)
    with locked_folder(folder):
        there = read_manifest(folder)
        if replaces != "any" and there.get(name) != replaces:
            raise WeightsError(
                f"weights {name!r} were written meanwhile, and are left as they are",
                hint="the same command looks at those that are there now",
            )
        tables = {known.name: entry_table(known) for known in there.values()}
        tables[name] = entry_table(entry)
        files = {entry.path: data, **({folder / entry.record: noted} if noted else {})}
        text = dump_tables(dict(sorted(tables.items())), _HEAD)
        write_together({**files, folder / MANIFEST: text.encode()}, elsewhere=_ELSEWHERE)
    return entry


def halved(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Single-precision tensors that hold half-precision numbers alone, as half-precision ones.

    Nothing is rounded: tensors that would lose anything stay as they are. A network that loads the
    result has the weights that it had.

    Args:
        state: name -> tensor.
    """
    import torch

    found = {}
    for name, value in state.items():
        half = value.to(torch.float16) if value.dtype == torch.float32 else value
        found[name] = half if torch.equal(half.to(value.dtype), value) else value
    return found


def load_into(target: nn.Module, state: Mapping[str, Tensor], name: str = "these weights") -> None:
    """Put tensors into a network, all of them or none.

    Args:
        target: whose `state_dict` says what is expected.
        state: name -> tensor.
        name: of the weights, for the message.

    Raises:
        WeightsError: listing everything missing, unexpected, misshapen, of the wrong type or not
            finite.
    """
    problems = mismatches(target, state)
    if problems:
        raise WeightsError(
            f"{name} do not fit {type(target).__name__}:\n"
            + "\n".join(f"  {problem}" for problem in sorted(problems))
        )
    expected = target.state_dict()
    target.load_state_dict(
        {key: value.to(expected[key].dtype) for key, value in state.items()}, strict=True
    )


def mismatches(target: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """In words, everything that keeps tensors from being a network's weights.

    Args:
        target: whose `state_dict` says what is expected.
        state: name -> tensor.
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
        value, wanted = state[key], expected[key]
        if value.shape != wanted.shape:
            problems.append(
                f"misshapen: {key} is {list(value.shape)}, expected {list(wanted.shape)}"
            )
        elif value.is_floating_point() != wanted.is_floating_point() or value.is_complex():
            problems.append(f"of the wrong type: {key} is {value.dtype}, expected {wanted.dtype}")
        elif wanted.is_floating_point() and not bool(torch.isfinite(value.to(wanted.dtype)).all()):
            problems.append(f"not finite: {key}")
        elif key.endswith("running_var") and bool((value < 0).any()):
            problems.append(f"negative: {key}, which is a variance")
    return problems


def _list(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
