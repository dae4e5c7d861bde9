"""An ensemble's cell (AutoEnergy), combined from the sealed cells of its members."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.contracts.cell import Cell
from bench.evaluation.draws import affordable_draws
from bench.results import flags
from bench.results.ensemble import Row, member_keys, strongest
from bench.runs.seal import environment_of, seal
from bench.store.documents import write_json
from bench.store.folder import CellFolder, RunFolder
from bench.store.provenance import sources
from bench.store.sealed import Combination, LeftOut, MemberWins, Sealed
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


def combine(
    run: RunFolder,
    key: str,
    cells: Mapping[str, Cell],
    black_boxes: Collection[str],
    ids: Sequence[str] | None = None,
) -> Sealed:
    """Compute and seal an ensemble's cell.

    Args:
        run: the run's folder.
        key: of the ensemble's cell.
        cells: all cells of the run, by key.
        black_boxes: names of the attacks that see executed MACs alone.
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
    tables = [member.folder.table().to_pylist() for member in members]
    rows, winners = zip(
        *(strongest(candidates) for candidates in zip(*tables, strict=True)), strict=True
    )
    target = members[0].folder.target()
    write_json(folder.path / TARGET, target.document())
    record = environment_of(members[0].folder.shards()[0])
    record.pop("reads", None)
    folder.write_shard(0, len(rows) - 1, rows, {**record, "sources": sources(cell)})
    found = Combination(
        budget=len(members) * cell.protocol.budget,
        members=tuple(
            MemberWins(
                member.key,
                member.cell.attack.label,
                winners.count(place),
                sum(row["evaluations"] for row in table),
            )
            for place, (member, table) in enumerate(zip(members, tables, strict=True))
        ),
        left_out=tuple(left_out),
        adaptive=tuple(_adaptive(cell, target)),
        winner=tuple(winners),
    )
    doubts = {"not-converged"} & {flag for member in members for flag in member.sealed.flags}
    doubts |= _leads(members, tables, target.reference, black_boxes)
    return seal(folder, cell, "ok", ids=ids, combination=found, flags=sorted(doubts))


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


def _leads(
    members: Sequence[Member],
    tables: Sequence[Sequence[Row]],
    reference: int,
    black_boxes: Collection[str],
) -> set[str]:
    """Flags of members that lead though they know less than the others."""
    reserve = reference - _mean(tables[0], "clean_macs")
    seen = [
        flags.Seen(
            macs=_mean(table, "adversarial_macs"),
            reserve=reserve,
            blind=member.cell.attack.name in black_boxes,
            past=member.cell.attack.params.get("knows") == "network",
        )
        for member, table in zip(members, tables, strict=True)
    ]
    return {flag for group in flags.of_group(seen) for flag in group}


def _adaptive(cell: Cell, target: TargetDescription) -> list[str]:
    """What the members did about the defense, in words; nothing where there is none."""
    if cell.defense is None:
        return []
    found = ["gradients are taken end to end, through the defence"]
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
