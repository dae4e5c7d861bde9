"""bench.toml -> a resolved, frozen plan of cells; every mistake reported at once. Imports no torch.

A plan names a protocol (what makes rows comparable), targets, defences and attacks. Lists in `threat`, `budget` and
`seeds` make one board each. `extends` takes over a suite or another file; tables are merged key by key, and a list of
targets, defences, attacks or exclusions replaces the one it extends.
"""

from __future__ import annotations

import itertools
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from bench import registry, suites, weights
from bench.data import parse_name
from bench.errors import GatebenchError, PlanError, did_you_mean
from bench.keys import digest
from bench.signature import REQUIRED, Parameter
from bench.threat import Threat, parse_threat

SCHEMA = 1


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _Protocol(_Strict):
    dataset: str
    images: int = 100
    batch: int = 32
    threat: Any
    budget: int | list[int] = 150
    seeds: list[int] = [0]
    audit: int = 4


class _Run(_Strict):
    device: str = "auto"
    shard: int = 64
    deadline: str | int = "10m"
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    executor: str = "local"


class _Target(_Strict):
    use: str
    params: dict[str, Any] = {}
    weights: str
    label: str | None = None


class _Defense(_Strict):
    use: str
    params: dict[str, Any] = {}
    label: str | None = None


class _Attack(_Strict):
    use: str
    params: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    label: str | None = None


class _Exclude(_Strict):
    target: str | None = None
    defense: str | None = None
    attack: str | None = None
    reason: str


class _Document(_Strict):
    schema_: int = SCHEMA
    extends: str | None = None
    protocol: _Protocol
    run: _Run = _Run()
    target: list[_Target] = []
    defense: list[_Defense] = []
    attack: list[_Attack] = []
    exclude: list[_Exclude] = []


@dataclass(frozen=True)
class Component:
    """A target, defence or attack with everything resolved.

    Attributes:
        name: of the provider. distribution: who provides it. value: "module:Class".
        label: as shown. params: all parameters, defaults included. version: declared by the class.
        preset: the named set of parameters it started from, "" for none.
        weights: of a target: the name in a manifest, or "random:SEED". digest: of the weights file, "" for random ones.
        control: whether it is a control, ranked with nobody.
    """

    name: str
    distribution: str
    value: str
    label: str
    params: Mapping[str, Any]
    version: int = 1
    preset: str = ""
    weights: str = ""
    digest: str = ""
    control: bool = False

    def identity(self) -> dict[str, Any]:
        """What enters a cell's key: everything but the label."""
        found = {"name": f"{self.distribution}/{self.name}", "params": dict(self.params), "version": self.version}
        return found | ({"weights": self.digest or self.weights} if self.weights else {})

    def document(self) -> dict[str, Any]:
        """The resolved component, as stored."""
        return {key: dict(value) if isinstance(value, Mapping) else value for key, value in vars(self).items()}


@dataclass(frozen=True)
class Protocol:
    """What makes rows comparable.

    Attributes:
        dataset: "NAME:SPLIT". images: how many. batch: image i always sits at place i mod batch of batch i div batch.
        threat: what a saved image may change. budget: forward-equivalents an image. seed: of random draws.
        audit: images of every cell whose execution is counted.
    """

    dataset: str
    images: int
    batch: int
    threat: Threat
    budget: int
    seed: int
    audit: int

    def document(self) -> dict[str, Any]:
        return {**vars(self), "threat": self.threat.document()}

    @property
    def title(self) -> str:
        """Short and safe in a file name: `digits-m-test-psnr35-b150`."""
        threat = "".join(c if c.isalnum() else "" for c in str(self.threat).replace("/", "over"))
        seed = f"-s{self.seed}" if self.seed else ""
        return f"{self.dataset.replace(':', '-')}-{threat}-b{self.budget}{seed}"


@dataclass(frozen=True)
class Cell:
    """One (target, defence, attack) under one protocol. `excluded` is the reason why it is not to be run, "" if it is."""

    protocol: Protocol
    target: Component
    attack: Component
    defense: Component | None = None
    excluded: str = ""

    def key(self, subset: str, cost_model: str) -> str:
        """sha256 of the canonical, resolved content.

        Args:
            subset: digest of the image subset. cost_model: names the way of counting.
        """
        return digest(
            {
                "schema": SCHEMA,
                "cost": cost_model,
                "subset": subset,
                "protocol": self.protocol.document(),
                "target": self.target.identity(),
                "defense": self.defense.identity() if self.defense else None,
                "attack": self.attack.identity(),
            }
        )

    @property
    def label(self) -> str:
        return cell_label(self.target.label, self.defense.label if self.defense else "", self.attack.label)


def cell_label(target: str, defense: str, attack: str) -> str:
    """How a cell is called everywhere: `TARGET + DEFENCE / ATTACK`."""
    return f"{target} + {defense} / {attack}" if defense else f"{target} / {attack}"


def entry_label(entry: Mapping[str, Any]) -> str:
    """The label of a cell as it stands in plan.json."""
    return cell_label(entry["target"]["label"], entry["defense"]["label"] if entry["defense"] else "", entry["attack"]["label"])


@dataclass(frozen=True)
class RunOptions:
    """How to run, which never changes a number: device, images a shard, seconds a shard, workers, threads a worker."""

    device: str = "auto"
    shard: int = 64
    deadline: float = 600
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    executor: str = "local"


@dataclass(frozen=True)
class Plan:
    """A resolved plan: cells grouped into boards, in the order of the file."""

    name: str
    source: str
    boards: tuple[tuple[Cell, ...], ...]
    options: RunOptions
    notes: tuple[str, ...] = field(default=())

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(itertools.chain.from_iterable(self.boards))

    def document(self) -> dict[str, Any]:
        """What the plan comes to, whatever the file looked like; run options are no part of it."""
        return {
            "schema": SCHEMA,
            "boards": [
                {
                    "protocol": board[0].protocol.document(),
                    "cells": [
                        {
                            "target": cell.target.document(),
                            "defense": cell.defense.document() if cell.defense else None,
                            "attack": cell.attack.document(),
                            "excluded": cell.excluded,
                        }
                        for cell in board
                    ],
                }
                for board in self.boards
            ],
        }

    @property
    def digest(self) -> str:
        return digest(self.document())

    @property
    def default_name(self) -> str:
        """The protocol's title plus six digits of the plan's hash."""
        title = self.boards[0][0].protocol.title if self.boards else "empty"
        return f"{title}-{self.digest[:6]}"


def load_plan(source: str | Path, *, overrides: Sequence[str] = (), only: Sequence[str] = ()) -> Plan:
    """Read, check and resolve a plan.

    Args:
        source: the name of a suite, or the path of a TOML file.
        overrides: "protocol.images=50" and the like, in TOML's own notation.
        only: labels, or parts of labels, of the cells to keep.

    Raises:
        PlanError: with all mistakes at once.
    """
    text, place = _read(str(source))
    document = _merged(_parse(text, place), place, seen=())
    for override in overrides:
        _override(document, override)
    plan = _Resolver(document, place, _Lines(text)).plan(str(source))
    return _only(plan, only) if only else plan


# ---------------------------------------------------------------- reading


def _read(source: str) -> tuple[str, str]:
    """(text, place) of a suite or a file."""
    path = Path(source)
    if path.suffix == ".toml" or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), str(path)
        except FileNotFoundError as error:
            raise PlanError(f"there is no file {source}", hint="'gatebench list suites' shows the plans that come along") from error
        except (OSError, UnicodeDecodeError) as error:
            raise PlanError(f"{source} cannot be read: {error}") from error
    found = suites.find(source)
    return found.read_text(encoding="utf-8"), f"suite {source}"


def _parse(text: str, place: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PlanError(f"{place} is no valid TOML: {error}") from error


def _merged(document: dict[str, Any], place: str, seen: tuple[str, ...]) -> dict[str, Any]:
    base = document.get("extends")
    if base is None:
        return dict(document)
    if not isinstance(base, str):
        raise PlanError(f"{place}: extends: expected the name of a suite or a file, got {base!r}")
    if base in seen:
        raise PlanError(f"{place}: extends: {' -> '.join([*seen, base])} goes round in a circle")
    if base.endswith(".toml") and not place.startswith("suite "):
        base = str(Path(place).parent / base)
    text, base_place = _read(base)
    below = _merged(_parse(text, base_place), base_place, (*seen, base))
    merged = dict(below)
    for key, value in document.items():
        both = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = {**below[key], **value} if both else value
    merged.pop("extends", None)
    return merged


def _override(document: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    keys = [part.strip() for part in path.split(".")]
    if not equals or not all(keys):
        raise PlanError(f"--set {text}: expected key=value, for example --set protocol.images=50")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    place = document
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise PlanError(f"--set {text}: {key!r} is a list; only tables such as protocol and run can be set")
    place[keys[-1]] = parsed


class _Lines:
    """Where things stand in a TOML file: tomllib does not tell, so headers and keys are looked up."""

    def __init__(self, text: str) -> None:
        self._lines: dict[str, int] = {}
        section, counts = "", dict[str, int]()
        for number, raw in enumerate(text.splitlines(), 1):
            line = raw.strip()
            if line.startswith("[["):
                name = line.strip("[] ").split("]")[0].strip()
                counts[name] = counts.get(name, -1) + 1
                section = f"{name}[{counts[name]}]"
                self._lines[section] = number
            elif line.startswith("["):
                name = line.strip("[] ").split("]")[0].strip()
                head, _, tail = name.partition(".")
                section = f"{head}[{counts[head]}].{tail}" if head in counts and tail else name
                self._lines[section] = number
            elif "=" in line and not line.startswith("#"):
                key = line.partition("=")[0].strip().strip('"')
                self._lines.setdefault(f"{section}.{key}" if section else key, number)

    def of(self, path: str) -> str:
        """ " (line 12)" for the nearest enclosing thing that is in the file, or ""."""
        while path:
            if path in self._lines:
                return f" (line {self._lines[path]})"
            path = path.rpartition(".")[0]
        return ""


# ---------------------------------------------------------------- resolving


class _Resolver:
    """Turns a merged document into a plan, collecting mistakes."""

    def __init__(self, document: dict[str, Any], place: str, lines: _Lines) -> None:
        self.raw = document
        self.place = place
        self.lines = lines
        self.problems: list[str] = []

    def plan(self, source: str) -> Plan:
        document = self._document()
        if document is None:
            raise PlanError(self.problems)
        protocols = self._protocols(document.protocol)
        targets = [c for i, entry in enumerate(document.target) for c in self._target(entry, f"target[{i}]")]
        defenses = [c for i, entry in enumerate(document.defense) for c in self._defense(entry, f"defense[{i}]")]
        attacks = [c for i, entry in enumerate(document.attack) for c in self._attack(entry, f"attack[{i}]")]
        options = self._options(document.run)
        for kind, found, entries in (("target", targets, document.target), ("attack", attacks, document.attack)):
            if not found and not entries:
                self._problem(kind, f"a plan needs at least one [[{kind}]]")
        for kind, components in (("target", targets), ("defense", defenses), ("attack", attacks)):
            self._distinct(kind, components)
        self._excludes(document.exclude, targets, defenses, attacks)
        if self.problems:
            raise PlanError(self.problems)
        boards = tuple(
            tuple(
                Cell(protocol, target, attack, defense, _excluded(document.exclude, target, defense, attack))
                for target in targets
                for defense in [None, *defenses]
                for attack in attacks
            )
            for protocol in protocols
        )
        plan = Plan("", source, boards, options)
        return replace(plan, name=plan.default_name)

    def _problem(self, path: str, message: str) -> None:
        self.problems.append(f"{self.place}{self.lines.of(path)}: {message if message.startswith(path) else f'{path}: {message}'}")

    def _document(self) -> _Document | None:
        raw = dict(self.raw)
        if "schema" in raw:
            raw["schema_"] = raw.pop("schema")
        if "protocol" not in raw:
            self._problem("protocol", "missing; a plan has a [protocol] table with at least dataset and threat")
            return None
        try:
            document = _Document.model_validate_json(json.dumps(raw, default=str))
        except ValidationError as error:
            for item in error.errors():
                self._invalid(item, raw)
            return None
        if document.schema_ != SCHEMA:
            self._problem("schema", f"is {document.schema_}, this gatebench reads {SCHEMA}")
        return document

    def _invalid(self, item: Mapping[str, Any], raw: Mapping[str, Any]) -> None:
        path = _path(item["loc"])
        if item["type"] == "extra_forbidden":
            known = _fields_at(item["loc"][:-1])
            self._problem(path, f"{path}: unknown key {item['loc'][-1]!r}{did_you_mean(str(item['loc'][-1]), known)}")
        elif item["type"] == "missing":
            self._problem(path, f"{path}: missing")
        else:
            self._problem(path, f"{path}: {_expected(item)}, got {item['input']!r}")

    def _protocols(self, entry: _Protocol) -> list[Protocol]:
        self._dataset(entry)
        for name in ("images", "batch"):
            if getattr(entry, name) < 1:
                self._problem(f"protocol.{name}", f"at least 1, got {getattr(entry, name)}")
        if entry.audit < 1:
            self._problem("protocol.audit", "at least 1: every cell has images whose execution is counted")
        budgets = entry.budget if isinstance(entry.budget, list) else [entry.budget]
        threats = self._threats(entry)
        for name, values in (("budget", budgets), ("seeds", entry.seeds), ("threat", threats)):
            if not values and not self.problems:
                self._problem(f"protocol.{name}", "an empty list makes no board")
        for budget in budgets:
            if budget < 1:
                self._problem("protocol.budget", f"at least 1 forward-equivalent, got {budget}")
        return [
            Protocol(entry.dataset, entry.images, entry.batch, threat, budget, seed, min(entry.audit, max(entry.images, 1)))
            for threat, budget, seed in itertools.product(threats, budgets, entry.seeds)
        ]

    def _threats(self, entry: _Protocol) -> list[Threat]:
        values = entry.threat if isinstance(entry.threat, list) else [entry.threat]
        found = []
        for i, value in enumerate(values):
            where = f"protocol.threat[{i}]" if isinstance(entry.threat, list) else "protocol.threat"
            try:
                threat = parse_threat(value, where)
            except PlanError as error:
                self._problem("protocol.threat", error.message)
                continue
            if not threat.admits_change(3 * 4096 * 4096):
                self._problem("protocol.threat", f"{where}: {threat} admits no change of any 8-bit image; every attack would do nothing")
            found.append(threat)
        return found

    def _dataset(self, entry: _Protocol) -> None:
        try:
            name, split = parse_name(entry.dataset, "protocol.dataset")
            facts = registry.find("dataset", name, where="protocol.dataset").facts()
        except GatebenchError as error:
            self._problem("protocol.dataset", error.message)
            return
        sizes = facts.constants.get("sizes", {})
        if sizes and split not in sizes:
            self._problem("protocol.dataset", f"{name} has no split {split!r}{did_you_mean(split, sizes)}")
        elif sizes and entry.images > sizes[split]:
            self._problem("protocol.images", f"{entry.images} asked for, but {entry.dataset} has {sizes[split]}")

    def _options(self, entry: _Run) -> RunOptions:
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
        if entry.device.partition(":")[0] not in ("auto", "cpu", "cuda", "mps"):
            self._problem("run.device", f"unknown device {entry.device!r}{did_you_mean(entry.device, ['auto', 'cpu', 'cuda', 'mps'])}")
        if entry.executor not in registry.names("executor"):
            self._problem("run.executor", f"unknown executor {entry.executor!r}{did_you_mean(entry.executor, registry.names('executor'))}")
        return RunOptions(entry.device, entry.shard, deadline, entry.workers, entry.threads, entry.executor)

    def _component(self, kind: str, entry: _Target | _Defense | _Attack, where: str, params: Mapping[str, Any]) -> Component | None:
        name, _, preset = entry.use.partition(":")
        try:
            provider = registry.find(kind, name, where=f"{where}.use")
            facts = provider.facts()
        except GatebenchError as error:
            self._problem(f"{where}.use", error.message)
            return None
        if preset and preset not in facts.presets:
            self._problem(f"{where}.use", f"{name!r} has no preset {preset!r}{did_you_mean(preset, facts.presets)}")
            return None
        given = {**facts.presets.get(preset, {}), **params}
        try:
            resolved = resolve_params(facts.parameters, given, f"{where}.params")
        except PlanError as error:
            for problem in error.problems:
                self._problem(problem.partition(":")[0], problem)
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
        )

    def _target(self, entry: _Target, where: str) -> list[Component]:
        component = self._component("target", entry, where, entry.params)
        if component is None:
            return []
        if entry.weights.startswith("random:"):
            if not entry.weights[7:].isdigit():
                self._problem(f"{where}.weights", f'expected "random:SEED" with a whole number, got {entry.weights!r}')
                return []
            return [replace(component, weights=entry.weights, label=entry.label or _random_label(component, entry.weights))]
        try:
            found = weights.find(entry.weights)
        except GatebenchError as error:
            self._problem(f"{where}.weights", error.message)
            return []
        if found.target != component.name:
            self._problem(f"{where}.weights", f"{entry.weights!r} are weights of {found.target!r}, not of {component.name!r}")
            return []
        wrong = {key: value for key, value in found.params.items() if key in component.params and component.params[key] != value}
        chosen = [key for key in wrong if key in entry.params]
        for key in chosen:
            self._problem(
                f"{where}.params.{key}", f"is {entry.params[key]!r}, but the weights {entry.weights!r} have {key} = {wrong[key]!r}"
            )
        params = {**component.params, **found.params}
        label = entry.label or entry.weights.partition("@")[0]
        return [] if chosen else [replace(component, weights=entry.weights, digest=found.sha256, params=params, label=label)]

    def _defense(self, entry: _Defense, where: str) -> list[Component]:
        component = self._component("defense", entry, where, entry.params)
        return [component] if component else []

    def _attack(self, entry: _Attack, where: str) -> list[Component]:
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
                component = replace(component, label=f"{entry.label or _label(entry.use, entry.params)} {suffix}")
            if component:
                found.append(component)
        return found

    def _distinct(self, kind: str, components: Sequence[Component]) -> None:
        for earlier, later in itertools.combinations(components, 2):
            if earlier.label == later.label:
                self._problem(kind, f"two of them are labelled {later.label!r}; give each its own label")
            elif earlier.identity() == later.identity():
                self._problem(kind, f"{later.label!r} is the same as {earlier.label!r}, parameter by parameter")

    def _excludes(self, entries: Sequence[_Exclude], *components: Sequence[Component]) -> None:
        for i, entry in enumerate(entries):
            for kind, known in zip(("target", "defense", "attack"), components, strict=True):
                name = getattr(entry, kind)
                labels = [component.label for component in known]
                if name is not None and name not in labels:
                    self._problem(f"exclude[{i}].{kind}", f"no {kind} is labelled {name!r}{did_you_mean(name, labels)}")


def resolve_params(parameters: Mapping[str, Parameter], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """All parameters of a class: the given ones, strictly of their declared types, over the defaults.

    Raises:
        PlanError: with every unknown name, wrong type and missing value, each with its place.
    """
    problems = [f"{where}.{name}: unknown parameter {name!r}{did_you_mean(name, parameters)}" for name in given if name not in parameters]
    fields: dict[str, Any] = {
        name: (parameter.annotation, ... if parameter.default is REQUIRED else parameter.default) for name, parameter in parameters.items()
    }
    model = create_model("Parameters", __config__=ConfigDict(strict=True, protected_namespaces=()), **fields)
    known = {name: value for name, value in given.items() if name in parameters}
    resolved: dict[str, Any] = {}
    try:
        resolved = json.loads(model.model_validate_json(json.dumps(known, default=str, allow_nan=False)).model_dump_json())
    except ValueError as error:
        details = error.errors() if isinstance(error, ValidationError) else []
        seen: dict[str, Mapping[str, Any]] = {}
        for item in details:
            seen.setdefault(str(item["loc"][0]), item)
        for name, item in seen.items():
            if item["type"] == "missing":
                problems.append(f"{where}.{name}: missing; expected {parameters[name].describe()}")
            else:
                problems.append(f"{where}.{name}: expected {parameters[name].describe()}, got {known[name]!r}")
        if not details:
            problems.append(f"{where}: {error}")
    if problems:
        raise PlanError(problems)
    return resolved


def seconds(value: str | int, where: str) -> float:
    """600.0 from "10m", "600s", "0.2h" or 600.

    Raises:
        PlanError: it is no duration above zero.
    """
    if isinstance(value, str):
        scale = {"s": 1, "m": 60, "h": 3600}.get(value[-1:].lower())
        try:
            amount = float(value[:-1]) * scale if scale else float(value)
        except ValueError:
            amount = -1.0
    else:
        amount = float(value)
    if not 0 < amount < 1e9:
        raise PlanError(f'{where}: expected a duration such as "10m" or "90s", got {value!r}')
    return amount


def _label(use: str, params: Mapping[str, Any]) -> str:
    extra = ", ".join(f"{key}={value}" for key, value in params.items())
    return f"{use} {extra}" if extra else use


def _random_label(component: Component, weights_name: str) -> str:
    return f"{component.label} {weights_name}"


def _excluded(entries: Iterable[_Exclude], target: Component, defense: Component | None, attack: Component) -> str:
    for entry in entries:
        if (
            entry.target in (None, target.label)
            and entry.attack in (None, attack.label)
            and (entry.defense is None or (defense is not None and entry.defense == defense.label))
        ):
            return entry.reason
    return ""


def _only(plan: Plan, only: Sequence[str]) -> Plan:
    boards = tuple(tuple(cell for cell in board if any(part in cell.label for part in only)) for board in plan.boards)
    for part in only:
        if not any(part in cell.label for cell in plan.cells):
            raise PlanError(f"--only {part}: no cell has that in its label{did_you_mean(part, [cell.label for cell in plan.cells])}")
    kept = replace(plan, boards=tuple(board for board in boards if board))
    return replace(kept, name=kept.default_name)


def _path(loc: Sequence[str | int]) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text.replace("schema_", "schema")


_TABLES: dict[str, type[BaseModel]] = {
    "protocol": _Protocol,
    "run": _Run,
    "target": _Target,
    "defense": _Defense,
    "attack": _Attack,
    "exclude": _Exclude,
}


def _fields_at(loc: Sequence[str | int]) -> list[str]:
    model = _TABLES.get(str(loc[0])) if loc else _Document
    return [name.replace("schema_", "schema") for name in (model.model_fields if model else {})]


def _expected(item: Mapping[str, Any]) -> str:
    return {
        "int_type": "expected a whole number",
        "string_type": "expected a string in quotes",
        "dict_type": "expected a table",
        "list_type": "expected a list",
        "model_type": "expected a table",
        "literal_error": f"expected {item.get('ctx', {}).get('expected', '')}",
    }.get(item["type"], item["msg"][:1].lower() + item["msg"][1:])
