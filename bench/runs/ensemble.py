"""An ensemble's cell (AutoEnergy), combined from the sealed cells of its members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.contracts.cell import Cell
from bench.errors import GatebenchError
from bench.evaluation.draws import affordable_draws
from bench.plugins import registry
from bench.results import flags, stats
from bench.results.ensemble import Row, contributions, member_keys, strongest
from bench.runs.seal import environment_of, seal
from bench.store.documents import write_json
from bench.store.folder import CellFolder, RunFolder
from bench.store.provenance import sources
from bench.store.sealed import ALIKE, Combination, Environment, LeftOut, MemberWins, Sealed
from bench.store.target import TARGET, TargetDescription


@dataclass(frozen=True)
class Member:
    """A cell that takes part in an ensemble.

    Attributes:
        key: of the cell.
        cell: the resolved cell.
        folder: where it lies.
        sealed: how it ended.
    """

    key: str
    cell: Cell
    folder: CellFolder
    sealed: Sealed


@dataclass(frozen=True)
class Combined:
    """What an ensemble's cell comes to by its members.

    Attributes:
        rows: one an image, each that of the strongest member.
        target: what the members say of their target.
        environment: that the first member was made in.
        combination: which member won where.
        flags: that the members give it.
    """

    rows: tuple[Row, ...]
    target: TargetDescription
    environment: Environment
    combination: Combination
    flags: tuple[str, ...]


def combine(
    run: RunFolder,
    key: str,
    cells: Mapping[str, Cell],
    ids: Sequence[str] | None = None,
) -> Sealed:
    """Compute and seal an ensemble's cell.

    Args:
        run: the run's folder.
        key: of the ensemble's cell.
        cells: all cells of the run, by key.
        ids: of the images of the run, in order, where they are known.

    Returns:
        What was sealed.
    """
    cell, folder = cells[key], run.cell(key, create=True)
    folder.clear()
    members, left_out, missing = _members(run, cell, cells)
    if missing:
        reason = f"needs all of its members: {'; '.join(missing)}"
        return seal(folder, cell, "failed", reason)
    if not members:
        reason = "none of its members supports this target under this threat"
        return seal(folder, cell, "skipped", reason)
    found = _combined(cell, members, left_out)
    write_json(folder.path / TARGET, found.target.document())
    record: Environment = {**found.environment, "sources": sources(cell)}
    record.pop("reads", None)
    folder.write_shard(0, len(found.rows) - 1, found.rows, record)
    return seal(folder, cell, "ok", ids=ids, combination=found.combination, flags=found.flags)


def combined(run: RunFolder, key: str, cells: Mapping[str, Cell]) -> Combined | None:
    """What an ensemble's cell comes to, without writing anything; None where a member is missing.

    Args:
        run: the run's folder.
        key: of the ensemble's cell.
        cells: all cells of the run, by key.
    """
    members, left_out, missing = _members(run, cells[key], cells)
    return None if missing or not members else _combined(cells[key], members, left_out)


def _combined(cell: Cell, members: Sequence[Member], left_out: Sequence[LeftOut]) -> Combined:
    tables = [member.folder.table().to_pylist() for member in members]
    rows, winners = zip(
        *(strongest(candidates) for candidates in zip(*tables, strict=True)), strict=True
    )
    target = members[0].folder.target()
    clean = np.array([row["clean_macs"] for row in tables[0]])
    saves = stats.has_reserve(clean, target.reference)
    reserve = target.reference - _mean(tables[0], "clean_macs") if saves else 0.0
    adds = contributions(tables, reserve)
    found = Combination(
        budget=len(members) * cell.protocol.budget,
        members=tuple(
            MemberWins(
                member.key,
                member.cell.attack.label,
                winners.count(place),
                sum(row["evaluations"] for row in table),
                adds[place],
            )
            for place, (member, table) in enumerate(zip(members, tables, strict=True))
        ),
        left_out=tuple(left_out),
        adaptive=tuple(_adaptive(cell, target)),
        winner=tuple(winners),
    )
    doubts = {"not-converged", _MIXED} & {flag for one in members for flag in one.sealed.flags}
    doubts |= _leads(members, tables, target.reference)
    made = [environment_of(member.folder.shards()[0]) for member in members]
    doubts |= {_MIXED} if any(_terms(one) != _terms(made[0]) for one in made) else set()
    environment = made[0]
    return Combined(rows, target, environment, found, tuple(sorted(doubts)))


def _members(
    run: RunFolder, cell: Cell, cells: Mapping[str, Cell]
) -> tuple[list[Member], list[LeftOut], list[str]]:
    """Those with numbers, those that do not apply, and what is wrong with the others."""
    found: list[Member] = []
    left_out: list[LeftOut] = []
    missing: list[str] = []
    for key in member_keys(cell, cells):
        other = cells[key]
        label = other.attack.label
        if other.excluded:
            left_out.append(LeftOut(label, f"excluded: {other.excluded}"))
            continue
        folder = run.cell(key)
        sealed = folder.sealed()
        if sealed is None:
            missing.append(f"{other.label} is not finished")
        elif sealed.status == "skipped":
            left_out.append(LeftOut(label, sealed.reason))
        elif sealed.status != "ok" or folder.altered(sealed.shards):
            missing.append(f"{other.label} is {sealed.status}")
        else:
            found.append(Member(key, other, folder, sealed))
    return found, left_out, missing


_MIXED = "mixed-environment"


def _terms(made: Environment) -> dict[str, Any]:
    """What has to agree where members were made alike; their own code differs."""
    terms = {name: made.get(name) for name in (*ALIKE, "threads")}
    code = made.get("sources", {})
    return terms | {part: code.get(part) for part in ("target", "defense")}


def _leads(
    members: Sequence[Member],
    tables: Sequence[Sequence[Row]],
    reference: int,
) -> set[str]:
    """Flags of members that lead though they know less than the others."""
    reserve = reference - _mean(tables[0], "clean_macs")
    seen = [
        flags.Seen(
            macs=_mean(table, "adversarial_macs"),
            reserve=reserve,
            blind=_sees_macs_alone(member.cell.attack.name),
            past=member.cell.attack.params.get("knows") == "network",
        )
        for member, table in zip(members, tables, strict=True)
    ]
    return {flag for group in flags.of_group(seen) for flag in group}


def _sees_macs_alone(attack: str) -> bool:
    """Whether an attack is a black box; one that is not installed here is none."""
    try:
        return registry.find("attack", attack).facts().constants.get("access") == "macs"
    except GatebenchError:
        return False


def _adaptive(cell: Cell, target: TargetDescription) -> list[str]:
    """What the members did about the defense, in words; nothing where there is none."""
    if cell.defense is None:
        return []
    found = ["gradients are taken end to end, through the defense"]
    if target.gradients.without_surrogates > target.gradients.zero:
        found.append("a stage without a gradient passes its surrogate's on (BPDA)")
    if target.draws > 1:
        each = affordable_draws(target.draws, cell.protocol.budget)
        found.append(
            f"looks and gradients are over fresh draws of their own, {each} in each (EOT); "
            f"scores over {target.draws} others"
        )
    if target.units.alarm:
        found.append(
            "the response to an alarm counts as a unit to be opened, its score as the margin "
            "(joint loss)"
        )
    return found


def _mean(rows: Sequence[Row], name: str) -> float:
    return sum(int(row[name]) for row in rows) / len(rows)
