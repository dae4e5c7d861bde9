"""The strongest of several sealed cells, image by image, as a cell of its own (AutoEnergy).

An image's row is that of the member whose saved image executes most MACs, then of the one with the smallest distortion, then of the
earlier member. Evaluations are the sum over members; the trace is that of running them one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.evaluation.draws import affordable_draws
from bench.plans.plan import entry_label
from bench.results import flags
from bench.results.ensemble import Entry, Member, member_keys, strongest
from bench.runs.seal import seal
from bench.store.folder import RunFolder, read_json, write_json
from bench.store.provenance import sources


def combine(
    run: RunFolder, key: str, entry: Entry, entries: Mapping[str, Entry], black: Sequence[str]
) -> tuple[str, str]:
    """Compute and seal an ensemble's cell.

    Args:
        black: names of the attacks that see executed MACs alone.

    Returns:
        (status, reason).
    """
    inputs = {name: value for name, value in entry.items() if name != "key"}
    folder = run.cell(key, create=True)
    folder.clear()
    members, left_out, missing = _members(run, entry, entries, black)
    if missing:
        reason = f"needs all of its members: {'; '.join(missing)}"
        seal(folder, inputs, "failed", reason)
        return "failed", reason
    if not members:
        seal(
            folder, inputs, "skipped", "none of its members supports this target under this threat"
        )
        return "skipped", "none of its members supports this target under this threat"
    tables = [member.folder.table().to_pylist() for member in members]
    rows, winners = zip(
        *(strongest(candidates) for candidates in zip(*tables, strict=True)), strict=True
    )
    description = read_json(members[0].folder.path / "target.json")
    write_json(folder.path / "target.json", description)
    record = {
        name: value
        for name, value in members[0].folder.shards()[0].record.items()
        if name not in ("key", "schema", "reads")
    }
    folder.write_shard(0, len(rows) - 1, rows, {**record, "sources": sources(entry)})
    wins = [winners.count(place) for place in range(len(members))]
    reserve = int(description.get("reference", description["ceiling"])) - _mean(rows, "clean_macs")
    seen = [
        flags.Seen(_mean(table, "adversarial_macs"), reserve, member.black_box, member.past)
        for member, table in zip(members, tables, strict=True)
    ]
    leads = {flag for group in flags.of_group(seen) for flag in group}
    combination = {
        "budget": len(members) * int(entry["protocol"]["budget"]),
        "members": [
            {
                "key": member.key,
                "label": member.label,
                "wins": won,
                "evaluations": sum(row["evaluations"] for row in table),
            }
            for member, won, table in zip(members, wins, tables, strict=True)
        ],
        "left_out": left_out,
        "adaptive": _adaptive(entry, description),
        "winner": list(winners),
    }
    unsure = {
        flag for member in members for flag in member.sealed["flags"] if flag == "not-converged"
    }
    seal(folder, inputs, "ok", combination=combination, flags=sorted(unsure | leads))
    return "ok", ""


def _members(
    run: RunFolder, entry: Entry, entries: Mapping[str, Entry], black: Sequence[str]
) -> tuple[list[Member], list[dict[str, str]], list[str]]:
    """(members with numbers, those that do not apply with their reasons, what is wrong with the others)."""
    found: list[Member] = []
    left_out: list[dict[str, str]] = []
    missing: list[str] = []
    for key in member_keys(entry, entries):
        other = entries[key]
        label = other["attack"]["label"]
        if other["excluded"]:
            left_out.append({"label": label, "reason": f"excluded: {other['excluded']}"})
            continue
        folder = run.cell(key)
        sealed = folder.sealed()
        if sealed is None:
            missing.append(f"{entry_label(other)} is not finished")
        elif sealed["status"] == "skipped":
            left_out.append({"label": label, "reason": sealed["reason"]})
        elif sealed["status"] != "ok" or folder.altered(sealed["shards"]):
            missing.append(f"{entry_label(other)} is {sealed['status']}")
        else:
            past = other["attack"]["params"].get("knows") == "network"
            found.append(Member(key, label, folder, sealed, other["attack"]["name"] in black, past))
    return found, left_out, missing


def _adaptive(entry: Entry, description: Mapping[str, Any]) -> list[str]:
    """What the members did about the defence, in words; nothing where there is none."""
    if not entry["defense"]:
        return []
    found = ["gradients are taken end to end, through the defence"]
    if description.get("gradients", {}).get("without_surrogates", 0) > description.get(
        "gradients", {}
    ).get("zero", 0):
        found.append("a stage without a gradient passes its surrogate's on (BPDA)")
    if description.get("draws", 1) > 1:
        draws = description["draws"]
        each = affordable_draws(draws, int(entry["protocol"]["budget"]))
        found.append(
            f"looks and gradients are over fresh draws of their own, {each} in each (EOT); scores over {draws} others"
        )
    if description["units"].get("alarm"):
        found.append(
            "the response to an alarm counts as a unit to be opened, its score as the margin "
            "(joint loss)"
        )
    return found


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(int(row[name]) for row in rows) / len(rows)
