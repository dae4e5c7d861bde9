"""What a run measured, image by image: the sealed cells of each board as columns, and why the others have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.contracts.threat import parse_threat
from bench.plans.plan import defended_name, entry_label
from bench.results.stats import Array
from bench.store.folder import RunFolder, read_json

_READ = [
    "id",
    "label",
    "clean_prediction",
    "adversarial_prediction",
    "clean_macs",
    "adversarial_macs",
]


@dataclass(frozen=True)
class Cell:
    """One sealed cell; columns are (n,), in the order of the board's ids.

    Attributes:
        target, defense, attack: labels. key: of the cell's folder. inputs: resolved target, defence and attack.
        control: ranked with nobody. reference: MACs of the undefended network with everything on.
        floor, ceiling: of the target itself.
        clean_macs, adversarial_macs: int64. clean_correct, adversarial_correct: bool.
    """

    target: str
    defense: str
    attack: str
    inputs: Mapping[str, Any]
    control: bool
    reference: int
    ceiling: int
    clean_macs: Array
    adversarial_macs: Array
    clean_correct: Array
    adversarial_correct: Array
    key: str = ""
    floor: int = 0

    @property
    def labels(self) -> tuple[str, str, str]:
        """What a cell is found by in another run."""
        return self.target, self.defense, self.attack

    @property
    def who(self) -> tuple[str, str]:
        """The target and its defence."""
        return self.target, self.defense

    @property
    def label(self) -> str:
        """How it is called in messages."""
        return f"{self.defended} / {self.attack}"

    @property
    def defended(self) -> str:
        """The target with its defence, in words."""
        return defended_name(self.target, self.defense)


@dataclass(frozen=True)
class Part:
    """The cells of one board.

    Attributes:
        protocol: data set, subset, threat, budget, batch and seed; terms of the fit where a cell learns something.
        ids: the images. cells: with numbers. left_out: label -> why a cell has none; in no file.
    """

    protocol: Mapping[str, Any]
    ids: tuple[str, ...]
    cells: tuple[Cell, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def terms(self) -> str:
        """What tells the boards of one run apart."""
        found = self.protocol
        return f"{parse_threat(found['threat'])}, budget {found['budget']}, seed {found['seed']}"


def part_of_run(run: RunFolder, board: Mapping[str, Any]) -> Part:
    """The sealed cells of one board, and why the others have no numbers."""
    cells: list[Cell] = []
    ids: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    for entry in board["cells"]:
        label, store = entry_label(entry), run.cell(entry["key"])
        sealed = store.sealed()
        if entry["excluded"]:
            left_out[label] = f"skipped: {entry['excluded']}"
        elif sealed is None:
            left_out[label] = "not finished"
        elif sealed["status"] != "ok":
            left_out[label] = f"{sealed['status']}: {sealed['reason']}"
        elif wrong := store.altered(sealed["shards"]):
            left_out[label] = f"altered: {wrong[0]} is not what was sealed"
        else:
            table = store.table(_READ)
            found = {name: table[name].to_pylist() for name in table.column_names}
            ids = ids or tuple(found["id"])
            if tuple(found["id"]) != ids:
                left_out[label] = "altered: it has other images than the cells before it"
            else:
                cells.append(_cell(entry, read_json(store.path / "target.json"), found))
    return Part(_terms(board), ids, tuple(cells), left_out)


def part_of_plan(board: Mapping[str, Any]) -> Part:
    """What a board of plan.json is going to measure: terms and cells, no numbers yet."""
    live = [entry for entry in board["cells"] if not entry["excluded"]]
    excluded = {
        entry_label(entry): f"skipped: {entry['excluded']}"
        for entry in board["cells"]
        if entry["excluded"]
    }
    return Part(_terms(board), (), tuple(_cell(entry, {}, {}) for entry in live), excluded)


def _terms(board: Mapping[str, Any]) -> dict[str, Any]:
    """The terms of a board; those of the fit only where something fits."""
    found = {
        **board["protocol"],
        "dataset": board.get("dataset", board["protocol"]["dataset"]),
        "subset": board["subset"],
    }
    if any(
        part.get("fits")
        for entry in board["cells"]
        for part in (entry["attack"], entry["defense"] or {})
    ):
        return found | {"fit_subset": board.get("fit_subset", "")}
    return {name: value for name, value in found.items() if name != "fit"}


def _cell(
    entry: Mapping[str, Any], described: Mapping[str, Any], found: Mapping[str, Sequence[Any]]
) -> Cell:
    label = np.array(found.get("label", ()))
    ceiling = int(described.get("ceiling", 0))
    return Cell(
        target=entry["target"]["label"],
        defense=entry["defense"]["label"] if entry["defense"] else "",
        attack=entry["attack"]["label"],
        key=entry["key"],
        inputs={kind: _inputs(entry[kind]) for kind in ("target", "defense", "attack")},
        control=bool(entry["attack"]["control"]),
        reference=int(described.get("reference", ceiling)),
        floor=int(described.get("floor", 0)),
        ceiling=ceiling,
        clean_macs=np.array(found.get("clean_macs", ()), dtype=np.int64),
        adversarial_macs=np.array(found.get("adversarial_macs", ()), dtype=np.int64),
        clean_correct=np.array(found.get("clean_prediction", ())) == label,
        adversarial_correct=np.array(found.get("adversarial_prediction", ())) == label,
    )


def _inputs(component: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What a component is, as far as numbers go."""
    if component is None:
        return None
    found = {
        "name": f"{component['distribution']}/{component['name']}",
        "params": component["params"],
        "version": component["version"],
    }
    found |= (
        {"weights": component["digest"] or component["weights"]} if component["weights"] else {}
    )
    return found | (
        {"members": [_inputs(member) for member in component["members"]]}
        if component.get("members")
        else {}
    )
