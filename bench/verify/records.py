"""What cell.json and a cell's columns say that follows from other things in the folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from bench.contracts.cell import Cell
from bench.runs.ensemble import combined
from bench.runs.seal import environment_of, flags_of
from bench.store.folder import CellFolder, RunFolder
from bench.store.sealed import Combination, Sealed
from bench.verify.findings import short


def record_problems(
    run: RunFolder,
    folder: CellFolder,
    cells: Mapping[str, Cell],
    sealed: Sealed,
    table: pa.Table,
    remark: Callable[[str], None],
) -> Iterator[str]:
    """What cell.json says otherwise than shards, target.json, fit.json and members do, in words.

    Args:
        run: the run's folder.
        folder: of the cell.
        cells: all cells of the board, by key.
        sealed: its cell.json.
        table: its rows.
        remark: hears what cell.json leaves out because the run is older than that.
    """
    shards = folder.shards()
    made = environment_of(shards[0])
    if sealed.environment != made:
        name = _first_difference(sealed.environment, made)
        yield f"cell.json says another environment than its shards do ({name})"
    mixed = (
        () if all(shard.record == shards[0].record for shard in shards) else ("mixed-environment",)
    )
    flags = flags_of(folder, cells[folder.key], table)
    if cells[folder.key].is_combined:
        ensemble = combined(run, folder.key, cells)
        if ensemble is None:
            yield "its members are not there"
            return
        flags += ensemble.flags
        if sealed.combination == _without_adds(ensemble.combination) != ensemble.combination:
            remark("cell.json does not say what the ensemble would lose without each member")
        elif sealed.combination != ensemble.combination:
            yield "cell.json says another combination than its members make"
    elif sealed.combination is not None:
        yield "cell.json says that it is combined of others, the plan does not"
    if sealed.flags != (*flags, *mixed):
        again = _listed((*flags, *mixed))
        yield f"cell.json has the flags {_listed(sealed.flags)}, made again {again}"
    if sealed.fit != folder.fit():
        yield "cell.json and fit.json say different things of the fit"


def _without_adds(combination: Combination) -> Combination:
    """As runs wrote it that are older than that number."""
    members = tuple(replace(member, adds=0.0) for member in combination.members)
    return replace(combination, members=members)


def _first_difference(said: Mapping[str, Any], made: Mapping[str, Any]) -> str:
    names = [name for name in sorted({*said, *made}) if said.get(name) != made.get(name)]
    return f"{names[0]}: {short(said.get(names[0]))}, {short(made.get(names[0]))}"


def _listed(flags: Sequence[str]) -> str:
    return ", ".join(flags) or "none"
