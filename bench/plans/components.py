"""The [[target]], [[defense]] and [[attack]] tables of a plan."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench import weights
from bench.contracts.cell import Component, defended_name
from bench.errors import GatebenchError, PlanError, did_you_mean, in_words
from bench.plans.labels import as_seen, wrong_label
from bench.plans.problems import Problems
from bench.plans.schema import ABSENT, AttackTable, DefenseTable, Document, TargetTable
from bench.plans.toml import LineNumbers
from bench.plugins import registry
from bench.plugins.declarations import ClassFacts
from bench.plugins.parameters import as_arguments, resolve_params
from bench.terminal import printable

MOST_SWEPT = 10_000
"""Attacks that the sweeps of one table may make."""

Placed = tuple[str, Component]
"""A component and the path of its table, such as "attack[2]"."""


@dataclass
class Components:
    """What a plan's tables come to.

    Attributes:
        targets: in the order of the file.
        defenses: likewise.
        attacks: likewise; members of an ensemble that the plan does not name stand before it.
        implied: labels of those members.
        behind: attack's label -> labels of the defenses that it is made for.
    """

    targets: list[Component] = field(default_factory=list)
    defenses: list[Component] = field(default_factory=list)
    attacks: list[Component] = field(default_factory=list)
    implied: set[str] = field(default_factory=set)
    behind: dict[str, list[str]] = field(default_factory=dict)


def resolve_components(document: Document, problems: Problems) -> Components:
    """All components of a plan, with parameters, labels and weights; mistakes go to `problems`."""
    found = Components()
    targets = [
        (where, component)
        for where, table in _tables("target", document.target)
        for component in _targets(table, where, problems)
    ]
    defenses = [
        (where, component)
        for where, table in _tables("defense", document.defense)
        for component in _defenses(table, where, problems)
    ]
    attacks: list[Placed] = []
    for where, table in _tables("attack", document.attack):
        for component in _attacks(table, where, problems):
            attacks.append((where, component))
            if table.behind is not None:
                found.behind[component.label] = table.behind
    attacks = _with_members(attacks, found.implied, problems)
    for placed in (targets, defenses, attacks):
        _check_distinct(placed, problems)
    _check_cell_labels(targets, defenses, attacks, problems)
    found.targets, found.defenses, found.attacks = (
        [component for _, component in placed] for placed in (targets, defenses, attacks)
    )
    return found


def attack_component(use: str, params: Mapping[str, Any], label: str) -> Component:
    """An attack as a plan's table makes it.

    Args:
        use: its name, "NAME" or "NAME:PRESET".
        params: that are set.
        label: as shown.

    Raises:
        PlanError: with all mistakes at once.
    """
    problems = Problems("", LineNumbers(""))
    table = AttackTable(use=use, params=dict(params), label=label)
    found = _component("attack", table, "attack", params, problems)
    if found is None or problems:
        raise PlanError(problems.all())
    return found


def _tables(kind: str, tables: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(f"{kind}[{i}]", table) for i, table in enumerate(tables)]


def _component(
    kind: str,
    entry: TargetTable | DefenseTable | AttackTable,
    where: str,
    params: Mapping[str, Any],
    problems: Problems,
) -> Component | None:
    """What one table names, or None where it is wrong."""
    name, _, preset = entry.use.partition(":")
    if registry.is_module_class(entry.use) and name not in registry.names(kind):
        name, preset = f"{registry.BY_MODULE}/{entry.use}", ""  # MODULE:CLASS
    if name == ABSENT:
        return None
    try:
        provider = registry.find(kind, name, where=f"{where}.use")
        facts = provider.facts()
    except GatebenchError as error:
        leads_on = _of_file(entry.use) or (_of_timm(name) if kind == "target" else "")
        problems.add(f"{where}.use", error.message + leads_on)
        return None
    if preset and preset not in facts.presets:
        near = did_you_mean(preset, facts.presets)
        problems.add(f"{where}.use", f"{name!r} has no preset {preset!r}{near}")
        return None
    if entry.label and (wrong := wrong_label(entry.label)):
        problems.add(f"{where}.label", f"{entry.label!r} {wrong}")
    given = {**facts.presets.get(preset, {}), **params}
    ranges = facts.constants.get("ranges")
    try:
        resolved = resolve_params(facts.parameters, given, f"{where}.params", ranges)
    except PlanError as error:
        swept = getattr(entry, "sweep", {})
        for problem in error.problems:
            path = problem.partition(":")[0]
            if path.rpartition(".")[2] in swept:
                path = path.replace(".params.", ".sweep.")
                problem = problem.replace(".params.", ".sweep.", 1)
            problems.add(path, problem)
        return None
    made = _declared(provider, facts, resolved, entry.label or _label(entry.use, params))
    return replace(made, preset=preset, series=entry.label or _label(entry.use, entry.params))


def _declared(
    provider: registry.Provider, facts: ClassFacts, resolved: dict[str, Any], label: str
) -> Component:
    """A component with what its class declares, given all its parameters."""
    return Component(
        name=provider.name,
        distribution=provider.distribution,
        value=provider.value,
        label=label,
        params=_keyed(facts, resolved),
        version=int(facts.constants.get("version", 1)),
        control=bool(facts.constants.get("control", False)),
        fits=bool(facts.constants.get("fits", False)),
    )


def _keyed(facts: ClassFacts, params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without those whose default is left out of plans, where they are at it."""
    left_out = {
        name: facts.parameters[name].default for name in facts.constants.get("unkeyed_defaults", ())
    }
    return {
        name: value
        for name, value in params.items()
        if name not in left_out or value != left_out[name]
    }


def declared_here(kind: str, component: Component) -> Component:
    """What a component of somebody's plan is by the plugin that is installed here.

    Args:
        kind: "target", "defense" or "attack".
        component: as the plan has it; its parameters, label and weights are taken over.

    Raises:
        PlanError: the plugin does not take these parameters, or has no such preset.
        PluginError: it is not here, or cannot be read.
    """
    provider = registry.find(kind, component.provider)
    facts = provider.facts()
    if component.preset and component.preset not in facts.presets:
        raise PlanError(f"it has no preset {component.preset[:60]!r}")
    ranges = facts.constants.get("ranges")
    resolved = resolve_params(facts.parameters, component.params, "params", ranges)
    made = _declared(provider, facts, resolved, component.label)
    stated = {name: value for name, value in resolved.items() if name in component.params}
    members = tuple(
        attack_component(use, params, use)
        for use, params in facts.constants.get("members", ())
        if kind == "attack"
    )
    kept = {name: getattr(component, name) for name in ("preset", "weights", "digest", "series")}
    return replace(made, params={**made.params, **stated}, members=members, **kept)


def _targets(entry: TargetTable, where: str, problems: Problems) -> list[Component]:
    """The target of a table, with its weights; a list of one, or of none where it is wrong."""
    component = _component("target", entry, where, entry.params, problems)
    if component is None:
        return []
    if component.distribution == registry.HANDED_OVER:
        return [component]  # it has its weights
    if entry.weights.startswith("random:"):
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", entry.weights[7:]):
            said = (
                f'expected "random:SEED", a whole number with no 0 before it, got {entry.weights!r}'
            )
            problems.add(f"{where}.weights", said)
            return []
        label = entry.label or f"{component.label} {entry.weights}"
        made = replace(component, weights=entry.weights, label=label)
        return [made] if _makes_sense(made, where, problems) else []
    try:
        found = weights.find(entry.weights)
    except GatebenchError as error:
        problems.add(f"{where}.weights", error.message)
        return []
    if found.target != component.name:
        problems.add(
            f"{where}.weights",
            f"{entry.weights!r} are weights of {found.target!r}, not of {component.name!r}",
        )
        return []
    facts = registry.find("target", component.provider).facts()
    try:
        together = {**component.params, **found.params}
        resolve_params(facts.parameters, together, f"the weights {entry.weights!r}: params")
    except PlanError as error:
        for problem in error.problems:
            problems.add(f"{where}.weights", problem)
        return []
    theirs = _keyed(facts, found.params)
    wrong = [
        key
        for key, value in theirs.items()
        if key in entry.params and component.params.get(key, facts.parameters[key].default) != value
    ]
    for key in wrong:
        said = f"is {entry.params[key]!r}, but the weights {entry.weights!r} have {key} = "
        problems.add(f"{where}.params.{key}", f"{said}{theirs[key]!r}")
    if wrong:
        return []
    label = entry.label or entry.weights.partition("@")[0]
    params = {**component.params, **theirs}
    made = replace(component, weights=entry.weights, digest=found.digest)
    return [replace(made, params=params, label=label)]


def _makes_sense(component: Component, where: str, problems: Problems) -> bool:
    """Whether a target's own check, if it has one, has nothing against its parameters.

    What it says goes to `problems`. Weights that have a name were made with their parameters, so
    only networks with random ones are asked about.
    """
    provider = registry.find("target", component.provider)
    named = provider.facts().constants.get("plan_check", "")
    if not named:
        return True
    try:
        replace(provider, value=str(named)).load()(provider.load, as_arguments(component.params))
    except GatebenchError as error:
        problems.add(f"{where}.params", error.message)
        return False
    except Exception as error:  # it is a plugin's own code
        problems.add(where, f"{named} of {component.label!r} raised {in_words(error)}")
        return False
    return True


def _of_file(use: str) -> str:
    """What helps who names a file of Python; "" for other names."""
    file, _, name = use.rpartition(":")
    if not file.endswith(".py"):
        return ""
    return f'; a class in a file of the working folder is "{Path(file).stem}:{name}"'


def _of_timm(name: str) -> str:
    """What helps who names a model of timm as a target; "" for other names."""
    try:
        import timm
    except ImportError:
        return ""
    if not timm.is_model(name):
        return ""
    return (
        f": {name} is a plain network of timm, which does the same work for every image. "
        f'use = "sdn" with params = {{ backbone = "{name}" }} puts exits on it, '
        f'use = "cascade" with params = {{ networks = ["{name}"], sizes = [160, 224] }} runs it '
        "at a small size first"
    )


def _defenses(entry: DefenseTable, where: str, problems: Problems) -> list[Component]:
    component = _component("defense", entry, where, entry.params, problems)
    return [component] if component else []


def _attacks(entry: AttackTable, where: str, problems: Problems) -> list[Component]:
    """The attacks of a table: one for each combination of what it sweeps."""
    for key, values in entry.sweep.items():
        if not values:
            problems.add(f"{where}.sweep.{key}", "an empty list makes no attack")
        if key in entry.params:
            problems.add(f"{where}.sweep.{key}", "is set in params too")
    count = math.prod(len(values) for values in entry.sweep.values())
    if count > MOST_SWEPT:
        problems.add(f"{where}.sweep", f"makes {count:,} attacks; at most {MOST_SWEPT:,}")
        return []
    found = []
    for combination in itertools.product(*entry.sweep.values()):
        swept = dict(zip(entry.sweep, combination, strict=True))
        component = _component("attack", entry, where, {**entry.params, **swept}, problems)
        if component is None:
            continue
        if swept:
            base = entry.label or _label(entry.use, entry.params)
            component = replace(component, label=_label(base, swept))
        found.append(component)
    return found


def _with_members(placed: Sequence[Placed], implied: set[str], problems: Problems) -> list[Placed]:
    """The attacks, and the members of an ensemble among them that the plan does not name."""
    known = {_identity(component): component for _, component in placed}
    found: list[Placed] = []
    for where, component in placed:
        name = f"{component.distribution}/{component.name}"
        members: list[Component] = []
        for use, params in registry.find("attack", name).facts().constants.get("members", ()):
            table = AttackTable(use=use, params=dict(params))
            made = _component("attack", table, where, params, problems)
            if made is None:
                continue
            if registry.find("attack", made.provider).facts().constants.get("members"):
                said = f"{component.name!r} has the ensemble {use!r} as a member"
                problems.add(where, said)
                continue
            if _identity(made) not in known:
                known[_identity(made)] = made
                found.append((where, made))
                implied.add(made.label)
            member = known[_identity(made)]
            if member in members:  # it would be paid for twice, and each would add nothing
                said = f"{component.name!r} has the member {member.label!r} more than once"
                problems.add(where, said)
                continue
            members.append(member)
        found.append((where, replace(component, members=tuple(members)) if members else component))
    return found


def _check_distinct(placed: Sequence[Placed], problems: Problems) -> None:
    """Note components that share a label, or that are the same under two labels."""
    labels: set[str] = set()
    seen: dict[str, str] = {}
    identities: dict[str, str] = {}
    for where, component in placed:
        label = component.label
        if label in labels:
            said = f"two of them are labelled {label!r}; give each its own label"
            problems.add(where, said)
            continue
        labels.add(label)
        if (twin := seen.setdefault(as_seen(label), label)) != label:
            said = f"{label!r} looks like {twin!r}; give each a label that people can tell apart"
            problems.add(where, said)
        earlier = identities.setdefault(_identity(component), label)
        if earlier != label:
            problems.add(where, f"{label!r} is the same as {earlier!r}, parameter by parameter")


def _check_cell_labels(
    targets: Sequence[Placed],
    defenses: Sequence[Placed],
    attacks: Sequence[Placed],
    problems: Problems,
) -> None:
    """Note cells that share a label, as `a + b` without a defense does with `a` behind `b`."""
    defended: dict[str, str] = {}
    for _, target in targets:
        for defense in ["", *(one.label for _, one in defenses)]:
            name = defended_name(target.label, defense)
            if name in defended and defended[name] != target.label:
                said = f"{name!r} means two things: a label, and a target with its defense"
                problems.add("target", said)
            defended[name] = target.label
    if any(" / " in label for label in (*defended, *(attack.label for _, attack in attacks))):
        cells: dict[str, str] = {}
        for name, (_, attack) in itertools.product(defended, attacks):
            label = f"{name} / {attack.label}"
            if cells.setdefault(label, name) != name:
                problems.add("attack", f"{label!r} means two cells; give other labels")


def _identity(component: Component) -> str:
    return repr(component.identity())


def _label(use: str, params: Mapping[str, Any]) -> str:
    extra = ", ".join(f"{key}={value}" for key, value in params.items())
    return printable(f"{use} {extra}" if extra else use).replace("\n", "\\n")
