"""With what a cell was made, compared with what is here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch

from bench.contracts.cell import Cell, Component
from bench.executors.reads import Reads
from bench.store.provenance import environment, sources, versions
from bench.store.sealed import Sealed


def made_elsewhere(cell: Cell, sealed: Sealed, device: str, reads: Reads) -> Iterator[str]:
    """Where a difference in what is executed again may come from, in words.

    Args:
        cell: as the plan has it.
        sealed: its cell.json.
        device: that it is executed on here.
        reads: finds out what making its plugins reads here.
    """
    made = sealed.environment
    parts = cell.parts
    for kind, now in sources(cell).items():
        part = parts[kind]
        if (then := made.get("sources", {}).get(kind)) != now:
            yield f"{kind} {part.label}: made by other code than is here (sources {then} and {now})"
    for kind, files in ({} if cell.is_combined else reads.of(cell)).items():
        yield from _read_otherwise(kind, parts[kind], made.get("reads", {}).get(kind), files)
    for name, version in versions().items():
        if (before := made.get("versions", {}).get(name)) != version:
            yield f"made with {name} {before}, here is {version}"
    here = environment(torch.device(device))["device"]
    if made.get("device") != here:
        yield f"made on {made.get('device')}, here is {here}"


def _read_otherwise(
    kind: str, part: Component, then: Mapping[str, str] | None, now: Mapping[str, str]
) -> Iterator[str]:
    """What making a plugin read, where that differs from what it reads here."""
    label = f"{kind} {part.label}"
    if then is None:
        if now:
            yield f"{label}: its shards do not say what making it read"
        return
    for name in sorted({*then, *now}):
        before, after = then.get(name, "not read"), now.get(name, "not read")
        if before != after:
            yield f"{label}: what making it reads differs: {name} was {before}, is {after}"
