"""bench.toml -> a resolved, frozen plan of cells; every mistake reported at once. Imports no torch.

A plan names a protocol (what makes rows comparable), targets, defences and attacks. Lists in `threat`, `budget` and
`seeds` make one board each. `extends` takes over a suite or another file; tables are merged key by key, and a list of
targets, defences, attacks or exclusions replaces the one it extends.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import weights
from bench.contracts.threat import Threat, parse_threat
from bench.datasets.base import parse_name
from bench.errors import GatebenchError, PlanError, did_you_mean
from bench.plans.plan import SCHEMA, Cell, Component, Fit, Plan, Protocol, RunOptions
from bench.plans.schema import (
    ABSENT,
    AttackTable,
    DefenseTable,
    Document,
    ExcludeTable,
    ProtocolTable,
    RunTable,
    TargetTable,
    read_tables,
)
from bench.plans.toml import Lines, read_document
from bench.plugins import registry
from bench.plugins.parameters import resolve_params, seconds

LARGEST = (3, 4096, 4096)
"""Stands for an image whose shape is not known before the data is read: a threat too small for this one is too small for any."""


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
    plan = _Resolver(*read_document(str(source), overrides)).plan(str(source))
    return _only(plan, only) if only else plan


class _Resolver:
    """Turns a merged document into a plan, collecting mistakes."""

    def __init__(self, document: dict[str, Any], place: str, lines: Lines) -> None:
        self.raw = document
        self.place = place
        self.lines = lines
        self.problems: list[str] = []
        self.implied: set[str] = set()
        self.behind: dict[str, list[str]] = {}

    def plan(self, source: str) -> Plan:
        document = self._document()
        if document is None:
            raise PlanError(self.problems)
        protocols = self._protocols(document.protocol)
        placed = {
            "target": [
                (f"target[{i}]", c)
                for i, entry in enumerate(document.target)
                for c in self._target(entry, f"target[{i}]")
            ],
            "defense": [
                (f"defense[{i}]", c)
                for i, entry in enumerate(document.defense)
                for c in self._defense(entry, f"defense[{i}]")
            ],
            "attack": self._with_members(
                [
                    (f"attack[{i}]", c)
                    for i, entry in enumerate(document.attack)
                    for c in self._attack(entry, f"attack[{i}]")
                ]
            ),
        }
        targets, defenses, attacks = (
            [component for _, component in placed[kind]] for kind in ("target", "defense", "attack")
        )
        options = self._options(document.run)
        for kind, entries in (
            ("target", self.raw.get("target")),
            ("attack", self.raw.get("attack")),
        ):
            if not entries:
                self._problem(kind, f"a plan needs at least one [[{kind}]]")
        for found in placed.values():
            self._distinct(found)
        if not self.problems:  # else a label may be missing because its component is wrong
            self._excludes(document.exclude, targets, defenses, attacks)
            self._behind(document.attack, defenses)
        if self.problems:
            raise PlanError(self.problems)
        boards = tuple(
            tuple(
                Cell(
                    protocol,
                    target,
                    attack,
                    defense,
                    _excluded(document.exclude, target, defense, attack),
                )
                for target in targets
                for defense in [None, *defenses]
                for attack in attacks
                if self._meets(attack, defense, defenses)
            )
            for protocol in protocols
        )
        pages = {
            name: value
            for name, value in (("paper", document.paper), ("audits", document.audits))
            if value
        }
        return Plan(source, boards, options, pages)

    def _meets(
        self, attack: Component, defense: Component | None, defenses: Sequence[Component]
    ) -> bool:
        """Whether there is a cell of an attack and a defence; None is no defence.

        One that ignores defences has none on a bare network (its twin that ignores none is the same), one made for some
        defences none without them.
        """
        if (
            defense is None
            and attack.params.get("knows") == "network"
            and (defenses or attack.label in self.implied)
        ):
            return False
        chosen = self.behind.get(attack.label)
        return chosen is None or (defense is not None and defense.label in chosen)

    def _problem(self, path: str, message: str) -> None:
        problem = f"{self.place}{self.lines.of(path)}: {message if message.startswith(path) else f'{path}: {message}'}"
        if problem not in self.problems:
            self.problems.append(problem)

    def _document(self) -> Document | None:
        if "protocol" not in self.raw:
            self._problem(
                "protocol",
                "missing; a plan has a [protocol] table with at least dataset and threat",
            )
            return None
        document, problems = read_tables(self.raw)
        for path, message in problems:
            self._problem(path, message)
        if document is not None and document.schema_ != SCHEMA:
            self._problem("schema", f"is {document.schema_}, this gatebench reads {SCHEMA}")
        return document

    def _protocols(self, entry: ProtocolTable) -> list[Protocol]:
        shape = self._dataset(entry)
        for name in ("images", "batch"):
            if getattr(entry, name) < 1:
                self._problem(f"protocol.{name}", f"at least 1, got {getattr(entry, name)}")
        if entry.audit < 1:
            self._problem(
                "protocol.audit", "at least 1: every cell has images whose execution is counted"
            )
        budgets = entry.budget if isinstance(entry.budget, list) else [entry.budget]
        threats = self._threats(entry, shape)
        for name, values in (("budget", budgets), ("seeds", entry.seeds), ("threat", entry.threat)):
            if values == []:
                self._problem(f"protocol.{name}", "an empty list makes no board")
        lists: dict[str, list[Any]] = {"budget": budgets, "seeds": entry.seeds, "threat": threats}
        for name, chosen in lists.items():
            for value in dict.fromkeys(value for value in chosen if chosen.count(value) > 1):
                self._problem(
                    f"protocol.{name}",
                    f"{value} is there twice; the same board need not be made again",
                )
        for budget in budgets:
            if budget < 1:
                self._problem("protocol.budget", f"at least 1 forward-equivalent, got {budget}")
        if min(entry.fit.images, entry.fit.budget) < 1:
            self._problem(
                "protocol.fit",
                f"at least 1 image and 1 forward-equivalent, got {entry.fit.images} and {entry.fit.budget}",
            )
        if entry.fit.split == entry.dataset.partition(":")[2]:
            self._problem(
                "protocol.fit.split",
                f"{entry.fit.split!r} is the split that is scored; what is fitted on it proves nothing",
            )
        fit = Fit(entry.fit.split, entry.fit.images, entry.fit.budget)
        return [
            Protocol(
                entry.dataset,
                entry.images,
                entry.batch,
                threat,
                budget,
                seed,
                min(entry.audit, max(entry.images, 1)),
                fit,
            )
            for threat, budget, seed in itertools.product(threats, budgets, entry.seeds)
        ]

    def _threats(self, entry: ProtocolTable, shape: Sequence[int]) -> list[Threat]:
        values = entry.threat if isinstance(entry.threat, list) else [entry.threat]
        found = []
        for i, value in enumerate(values):
            where = f"protocol.threat[{i}]" if isinstance(entry.threat, list) else "protocol.threat"
            try:
                threat = parse_threat(value, where)
            except PlanError as error:
                self._problem("protocol.threat", error.message)
                continue
            if not threat.admits_change(math.prod(shape)):
                size = "x".join(str(side) for side in shape[1:])
                self._problem(
                    "protocol.threat",
                    f"{where}: {threat} admits no change of an 8-bit image of {size} pixels; every attack would do nothing",
                )
            found.append(threat)
        return found

    def _dataset(self, entry: ProtocolTable) -> Sequence[int]:
        """The shape of an image as far as it is known before anything is read; else larger than any."""
        if entry.dataset == ABSENT:
            return LARGEST
        try:
            name, split = parse_name(entry.dataset, "protocol.dataset")
            facts = registry.find("dataset", name, where="protocol.dataset").facts()
        except GatebenchError as error:
            self._problem("protocol.dataset", error.message)
            return LARGEST
        sizes = facts.constants.get("sizes", {})
        if sizes and split not in sizes:
            self._problem(
                "protocol.dataset", f"{name} has no split {split!r}{did_you_mean(split, sizes)}"
            )
        elif sizes and entry.images > sizes[split]:
            self._problem(
                "protocol.images",
                f"{entry.images} asked for, but {entry.dataset} has {sizes[split]}",
            )
        shape: Sequence[int] = facts.constants.get("image_shape", LARGEST)
        return shape

    def _options(self, entry: RunTable) -> RunOptions:
        deadline = 0.0
        try:
            deadline = seconds(entry.deadline, "run.deadline")
        except PlanError as error:
            self._problem("run.deadline", error.message)
        for name in ("shard", "threads"):
            if getattr(entry, name) < 1:
                self._problem(f"run.{name}", f"at least 1, got {getattr(entry, name)}")
        if isinstance(entry.workers, int) and entry.workers < 1:
            self._problem("run.workers", f'at least 1, or "auto", got {entry.workers}')
        if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", entry.device):
            self._problem(
                "run.device",
                f"unknown device {entry.device!r}{did_you_mean(entry.device, ['auto', 'cpu', 'cuda', 'mps'])}",
            )
        if entry.executor not in registry.names("executor"):
            self._problem(
                "run.executor",
                f"unknown executor {entry.executor!r}{did_you_mean(entry.executor, registry.names('executor'))}",
            )
        return RunOptions(
            entry.device, entry.shard, deadline, entry.workers, entry.threads, entry.executor
        )

    def _component(
        self,
        kind: str,
        entry: TargetTable | DefenseTable | AttackTable,
        where: str,
        params: Mapping[str, Any],
    ) -> Component | None:
        name, _, preset = entry.use.partition(":")
        if name == ABSENT:
            return None
        try:
            provider = registry.find(kind, name, where=f"{where}.use")
            facts = provider.facts()
        except GatebenchError as error:
            self._problem(f"{where}.use", error.message)
            return None
        if preset and preset not in facts.presets:
            self._problem(
                f"{where}.use",
                f"{name!r} has no preset {preset!r}{did_you_mean(preset, facts.presets)}",
            )
            return None
        given = {**facts.presets.get(preset, {}), **params}
        try:
            resolved = resolve_params(
                facts.parameters, given, f"{where}.params", facts.constants.get("ranges")
            )
        except PlanError as error:
            for problem in error.problems:
                path = problem.partition(":")[0]
                if path.rpartition(".")[2] in getattr(entry, "sweep", {}):
                    path, problem = (
                        path.replace(".params.", ".sweep."),
                        problem.replace(".params.", ".sweep.", 1),
                    )
                self._problem(path, problem)
            return None
        return Component(
            name=provider.name,
            distribution=provider.distribution,
            value=provider.value,
            label=entry.label or _label(entry.use, params),
            params=resolved,
            version=int(facts.constants.get("version", 1)),
            preset=preset,
            control=bool(facts.constants.get("control", False)),
            fits=bool(facts.constants.get("fits", False)),
            series=entry.label or _label(entry.use, entry.params),
        )

    def _target(self, entry: TargetTable, where: str) -> list[Component]:
        component = self._component("target", entry, where, entry.params)
        if component is None:
            return []
        if entry.weights.startswith("random:"):
            if not re.fullmatch(r"[0-9]{1,18}", entry.weights[7:]):
                self._problem(
                    f"{where}.weights",
                    f'expected "random:SEED" with a whole number, got {entry.weights!r}',
                )
                return []
            return [
                replace(
                    component,
                    weights=entry.weights,
                    label=entry.label or _random_label(component, entry.weights),
                )
            ]
        try:
            found = weights.find(entry.weights)
        except GatebenchError as error:
            self._problem(f"{where}.weights", error.message)
            return []
        if found.target != component.name:
            self._problem(
                f"{where}.weights",
                f"{entry.weights!r} are weights of {found.target!r}, not of {component.name!r}",
            )
            return []
        wrong = {
            key: value
            for key, value in found.params.items()
            if key in component.params and component.params[key] != value
        }
        chosen = [key for key in wrong if key in entry.params]
        for key in chosen:
            self._problem(
                f"{where}.params.{key}",
                f"is {entry.params[key]!r}, but the weights {entry.weights!r} have {key} = {wrong[key]!r}",
            )
        params = {**component.params, **found.params}
        label = entry.label or entry.weights.partition("@")[0]
        return (
            []
            if chosen
            else [
                replace(
                    component,
                    weights=entry.weights,
                    digest=found.sha256,
                    params=params,
                    label=label,
                )
            ]
        )

    def _defense(self, entry: DefenseTable, where: str) -> list[Component]:
        component = self._component("defense", entry, where, entry.params)
        return [component] if component else []

    def _attack(self, entry: AttackTable, where: str) -> list[Component]:
        found = []
        for key, values in entry.sweep.items():
            if not values:
                self._problem(f"{where}.sweep.{key}", "an empty list makes no attack")
            if key in entry.params:
                self._problem(f"{where}.sweep.{key}", "is set in params too")
        for combination in itertools.product(*entry.sweep.values()):
            swept = dict(zip(entry.sweep, combination, strict=True))
            component = self._component("attack", entry, where, {**entry.params, **swept})
            if component and swept:
                suffix = ", ".join(f"{key}={value}" for key, value in swept.items())
                component = replace(
                    component, label=f"{entry.label or _label(entry.use, entry.params)} {suffix}"
                )
            if component:
                found.append(component)
                if entry.behind is not None:
                    self.behind[component.label] = entry.behind
        return found

    def _with_members(self, placed: Sequence[tuple[str, Component]]) -> list[tuple[str, Component]]:
        """The attacks, and those that an ensemble among them is made of where the plan does not have them already."""
        known = {repr(component.identity()): component for _, component in placed}
        found: list[tuple[str, Component]] = []
        for where, component in placed:
            facts = registry.find("attack", f"{component.distribution}/{component.name}").facts()
            members = []
            for use, params in facts.constants.get("members", ()):
                made = self._component(
                    "attack", AttackTable(use=use, params=dict(params)), where, params
                )
                if made is None:
                    continue
                if repr(made.identity()) not in known:
                    known[repr(made.identity())] = made
                    found.append((where, made))
                    self.implied.add(made.label)
                members.append(known[repr(made.identity())])
            found.append(
                (where, replace(component, members=tuple(members)) if members else component)
            )
        return found

    def _distinct(self, placed: Sequence[tuple[str, Component]]) -> None:
        for (_, earlier), (where, later) in itertools.combinations(placed, 2):
            if earlier.label == later.label:
                self._problem(
                    where, f"two of them are labelled {later.label!r}; give each its own label"
                )
            elif earlier.identity() == later.identity():
                self._problem(
                    where,
                    f"{later.label!r} is the same as {earlier.label!r}, parameter by parameter",
                )

    def _excludes(self, entries: Sequence[ExcludeTable], *components: Sequence[Component]) -> None:
        for i, entry in enumerate(entries):
            if entry.target is entry.defense is entry.attack is None:
                self._problem(
                    f"exclude[{i}]",
                    "names no target, defense or attack, so it would exclude everything",
                )
            for kind, known in zip(("target", "defense", "attack"), components, strict=True):
                name = getattr(entry, kind)
                labels = [component.label for component in known]
                if name is not None and name not in labels:
                    self._problem(
                        f"exclude[{i}].{kind}",
                        f"no {kind} is labelled {name!r}{did_you_mean(name, labels)}",
                    )

    def _behind(self, entries: Sequence[AttackTable], defenses: Sequence[Component]) -> None:
        labels = [defense.label for defense in defenses]
        for i, entry in enumerate(entries):
            for name in entry.behind or ():
                if name not in labels:
                    self._problem(
                        f"attack[{i}].behind",
                        f"no defense is labelled {name!r}{did_you_mean(name, labels)}",
                    )
            if entry.behind == []:
                self._problem(f"attack[{i}].behind", "an empty list leaves the attack no cell")


def _label(use: str, params: Mapping[str, Any]) -> str:
    extra = ", ".join(f"{key}={value}" for key, value in params.items())
    return f"{use} {extra}" if extra else use


def _random_label(component: Component, weights_name: str) -> str:
    return f"{component.label} {weights_name}"


def _excluded(
    entries: Iterable[ExcludeTable], target: Component, defense: Component | None, attack: Component
) -> str:
    for entry in entries:
        if (
            entry.target in (None, target.label)
            and entry.attack in (None, attack.label)
            and (entry.defense is None or (defense is not None and entry.defense == defense.label))
        ):
            return entry.reason
    return ""


def _only(plan: Plan, only: Sequence[str]) -> Plan:
    """The cells labelled so, with what they are made of; where no label is exactly that, those that have it in their label."""
    labels = {cell.label for cell in plan.cells}
    chosen: set[str] = set()
    for part in only:
        found = {part} & labels or {label for label in labels if part in label}
        if not found:
            raise PlanError(
                f"--only {part}: no cell has that in its label{did_you_mean(part, labels)}"
            )
        chosen |= found
    whole = {cell.label: cell for cell in plan.cells}
    for label in list(chosen):  # an ensemble needs the cells that it is made of
        chosen |= {_labelled(whole[label], member) for member in whole[label].attack.members}
    boards = tuple(tuple(cell for cell in board if cell.label in chosen) for board in plan.boards)
    return replace(plan, boards=tuple(board for board in boards if board))


def _labelled(cell: Cell, attack: Component) -> str:
    """The label of the cell of another attack on the same target."""
    return replace(cell, attack=attack).label
