"""bench.toml -> a resolved, frozen plan of cells; every mistake reported at once. No torch.

A plan names a protocol (what makes rows comparable), targets, defenses and attacks. Lists in
`threat`, `budget` and `seeds` make one board each. `extends` takes over a suite or another file;
tables are merged key by key, and a list of targets, defenses, attacks or exclusions replaces the
one it extends.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.contracts.cell import SCHEMA, Cell, Component, Protocol
from bench.errors import PlanError, did_you_mean
from bench.plans.components import Components, resolve_components
from bench.plans.devices import kind_of
from bench.plans.plan import Plan
from bench.plans.problems import Problems
from bench.plans.protocols import resolve_options, resolve_protocols
from bench.plans.schema import AttackTable, Document, ExcludeTable, ProtocolTable, read_tables
from bench.plans.toml import PlanSource, read_source, source_of

MOST_CELLS = 200_000
"""Cells of one plan, over all boards."""


def load_plan(
    source: str | Path, *, overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Plan:
    """Read, check and resolve a plan.

    Args:
        source: the name of a suite, or the path of a TOML file.
        overrides: "protocol.images=50" and the like, in TOML's own notation.
        only: labels, or parts of labels, of the cells to keep.

    Raises:
        PlanError: with all mistakes at once.
    """
    plan = _resolve(read_source(str(source), overrides), str(source))
    return _only(plan, only) if only else plan


def resolve_document(document: Mapping[str, Any], name: str) -> Plan:
    """Check and resolve a plan that is no file.

    Args:
        document: what a TOML file would hold; `extends` is not followed.
        name: what to call it.

    Raises:
        PlanError: with all mistakes at once.
    """
    return _resolve(source_of(document, name), name)


def _resolve(source: PlanSource, name: str) -> Plan:
    problems = Problems(source.place, source.lines)
    for path, message in source.problems:
        problems.add(path, message)
    document = _document(source, problems)
    if document is None:
        raise PlanError(problems.all())
    options = resolve_options(document.run, problems)
    protocols = resolve_protocols(document.protocol, options.device, problems)
    components = resolve_components(document, problems)
    if document.headroom < 0 or document.headroom == 1:
        problems.add("headroom", f"{document.headroom}: 0 for none, or at least 2 images")
    for kind in ("target", "attack"):
        if not source.document.get(kind) and not source.incomplete:
            problems.add(kind, f"a plan needs at least one [[{kind}]]")
    if not problems:  # else a label may be missing because its component is wrong
        _check_excludes(document.exclude, components, problems)
        _check_behind(document.attack, components.defenses, problems)
        _check_size(len(protocols), components, problems)
        _check_fit_split(document.protocol, components, problems)
    if problems:
        raise PlanError(problems.all())
    pages = {"paper": document.paper, "audits": document.audits, "headroom": document.headroom}
    boards = _boards(components, document.exclude, protocols)
    return Plan(
        name,
        boards,
        options,
        {key: value for key, value in pages.items() if value},
        kind_of(options.device) if document.protocol.batch == "auto" else "",
    )


def _document(source: PlanSource, problems: Problems) -> Document | None:
    """The document in its schema; None where nothing can be made of it."""
    if "protocol" not in source.document:
        if not source.incomplete:
            said = "missing; a plan has a [protocol] table with at least dataset and threat"
            problems.add("protocol", said)
        return None
    document, found = read_tables(source.document)
    for path, message in found:
        if not (source.incomplete and message == f"{path}: missing"):
            problems.add(path, message)
    if document is not None and document.schema_ != SCHEMA:
        problems.add("schema", f"is {document.schema_}, this gatebench reads {SCHEMA}")
    return document


def _boards(
    components: Components, excludes: Sequence[ExcludeTable], protocols: Sequence[Protocol]
) -> tuple[tuple[Cell, ...], ...]:
    """The cells of every board, in the order of the file."""
    reasons = _reasons(excludes)
    chosen = [
        (target, defense, attack, _excluded(reasons, target, defense, attack))
        for target in components.targets
        for defense in [None, *components.defenses]
        for attack in components.attacks
        if _has_cell(attack, defense, components)
    ]
    return tuple(
        tuple(
            Cell(protocol, target, attack, defense, reason)
            for target, defense, attack, reason in chosen
        )
        for protocol in protocols
    )


def _has_cell(attack: Component, defense: Component | None, components: Components) -> bool:
    """Whether there is a cell of an attack and a defense; None is no defense.

    An attack that ignores defenses has none on a bare network (its twin that ignores none is the
    same); one made for some defenses has none without them.
    """
    ignores = attack.params.get("knows") == "network"
    if defense is None and ignores and (components.defenses or attack.label in components.implied):
        return False
    chosen = components.behind.get(attack.label)
    return chosen is None or (defense is not None and defense.label in chosen)


def _check_size(protocols: int, components: Components, problems: Problems) -> None:
    cells = protocols * len(components.targets) * len(components.attacks)
    cells *= 1 + len(components.defenses)
    if cells > MOST_CELLS:
        problems.add("protocol", f"makes {cells:,} cells; at most {MOST_CELLS:,}")


def _check_fit_split(protocol: ProtocolTable, components: Components, problems: Problems) -> None:
    """Refuse a plan in which something would learn from the split that is scored."""
    split = protocol.dataset.partition(":")[2]
    fits = [one.label for one in (*components.attacks, *components.defenses) if one.fits]
    if fits and protocol.fit.split == split:
        problems.add(
            "protocol.fit.split",
            f"{split!r} is the split that is scored, and {fits[0]} learns from it; what is fitted "
            "on it proves nothing",
        )


def _check_excludes(
    entries: Sequence[ExcludeTable], components: Components, problems: Problems
) -> None:
    known = {
        "target": {component.label for component in components.targets},
        "defense": {component.label for component in components.defenses},
        "attack": {component.label for component in components.attacks},
    }
    for i, entry in enumerate(entries):
        if entry.target is entry.defense is entry.attack is None:
            said = "names no target, defense or attack, so it would exclude everything"
            problems.add(f"exclude[{i}]", said)
        for kind, labels in known.items():
            name = getattr(entry, kind)
            if name is not None and name not in labels:
                said = f"no {kind} is labelled {name!r}{did_you_mean(name, labels)}"
                problems.add(f"exclude[{i}].{kind}", said)


def _check_behind(
    entries: Sequence[AttackTable], defenses: Sequence[Component], problems: Problems
) -> None:
    labels = {defense.label for defense in defenses}
    for i, entry in enumerate(entries):
        for name in entry.behind or ():
            if name not in labels:
                said = f"no defense is labelled {name!r}{did_you_mean(name, labels)}"
                problems.add(f"attack[{i}].behind", said)
        if entry.behind == []:
            problems.add(f"attack[{i}].behind", "an empty list leaves the attack no cell")


Labels = tuple[str | None, str | None, str | None]
"""Of target, defense and attack; None is any."""


def _reasons(entries: Sequence[ExcludeTable]) -> dict[Labels, tuple[int, str]]:
    """What the exclusions name -> the place of the first one that names it, and its reason."""
    found: dict[Labels, tuple[int, str]] = {}
    for place, entry in enumerate(entries):
        found.setdefault((entry.target, entry.defense, entry.attack), (place, entry.reason))
    return found


def _excluded(
    reasons: dict[Labels, tuple[int, str]],
    target: Component,
    defense: Component | None,
    attack: Component,
) -> str:
    """The reason of the first exclusion that fits a cell; "" where none does."""
    if not reasons:
        return ""
    behind = [None] if defense is None else [None, defense.label]
    names = itertools.product([None, target.label], behind, [None, attack.label])
    return min((reasons[labels] for labels in names if labels in reasons), default=(0, ""))[1]


def _only(plan: Plan, only: Sequence[str]) -> Plan:
    """The cells with one of these labels, with what they are made of.

    Where no label is exactly that, those that have it in their label.
    """
    labels = {cell.label for cell in plan.cells}
    chosen: set[str] = set()
    for part in only:
        found = {part} & labels or {label for label in labels if part in label}
        if not found:
            near = did_you_mean(part, labels)
            raise PlanError(f"--only {part}: no cell has that in its label{near}")
        chosen |= found
    whole = {cell.label: cell for cell in plan.cells}
    for label in list(chosen):  # an ensemble needs the cells that it is made of
        cell = whole[label]
        chosen |= {replace(cell, attack=member).label for member in cell.attack.members}
    boards = (tuple(cell for cell in board if cell.label in chosen) for board in plan.boards)
    return replace(plan, boards=tuple(board for board in boards if board))
