"""Two runs side by side, image by image: which images got dearer or cheaper, and by how much.

Where `bench.regression` passes judgement, this shows. Cells are matched by their labels inside boards of the same terms; what has no
counterpart is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench import stats
from bench.baseline import Baseline, Cell, Part
from bench.errors import NotComparable
from bench.stats import Array, Estimate
from bench.store import RunFolder
from bench.threat import parse_threat


@dataclass(frozen=True)
class Change:
    """One cell in both runs, all images of both.

    Attributes:
        target, defense, attack: labels. ids: images that both have.
        before, now: (n,) int64 adversarial MACs; clean_before, clean_now: clean MACs. reference: undefended ceiling of the second run.
        cost: mean change of adversarial MACs as a share of the reference, with interval; p: two-sided, paired, Holm over all cells.
        clean_cost: the same of clean MACs. accuracy, clean_accuracy: change of the share of right answers.
    """

    target: str
    defense: str
    attack: str
    ids: tuple[str, ...]
    before: Array
    now: Array
    clean_before: Array
    clean_now: Array
    reference: int
    cost: Estimate
    p: float
    clean_cost: Estimate
    accuracy: float
    clean_accuracy: float

    @property
    def label(self) -> str:
        """How the cell is called."""
        return f"{self.target} + {self.defense} / {self.attack}" if self.defense else f"{self.target} / {self.attack}"

    @property
    def dearer(self) -> int:
        """Images whose adversarial version executes more than before."""
        return int((self.now > self.before).sum())

    @property
    def cheaper(self) -> int:
        """Images whose adversarial version executes less than before."""
        return int((self.now < self.before).sum())

    def largest(self, count: int) -> list[int]:
        """Places of the images that changed most, largest first; unchanged ones never."""
        size = np.abs(self.now - self.before)
        order = np.argsort(-size, kind="stable")
        return [int(i) for i in order[:count] if size[i] > 0]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "target": self.target,
            "defense": self.defense,
            "attack": self.attack,
            "images": len(self.ids),
            "dearer": self.dearer,
            "cheaper": self.cheaper,
            "cost": vars(self.cost),
            "p": self.p,
            "clean_cost": vars(self.clean_cost),
            "accuracy": self.accuracy,
            "clean_accuracy": self.clean_accuracy,
            "changed": [{"id": self.ids[i], "before": int(self.before[i]), "now": int(self.now[i])} for i in self.largest(len(self.ids))],
        }


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and what they do not."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"schema": 1, "changes": [change.document() for change in self.changes], "notes": list(self.notes)}


def compare(before: Baseline, now: Baseline) -> Comparison:
    """Pair the cells of two runs.

    Raises:
        NotComparable: they have no cell with a common image.
    """
    notes: list[str] = []
    found = []
    left = list(now.parts)
    for old in before.parts:
        new = min(left, key=lambda part: len(_terms(old, part)), default=None)
        if new is None:
            notes.append("the second run has fewer boards")
            continue
        left.remove(new)
        notes += [f"measured otherwise: {text}" for text in _terms(old, new)]
        found += list(_paired(old, new, notes))
    notes += ["the second run has more boards"] if left else []
    if not found:
        raise NotComparable(
            "the runs have no cell in common on common images", hint="cells are matched by the labels of target, defence and attack"
        )
    adjusted = stats.holm([change.p for change in found])
    return Comparison(tuple(replace(change, p=p) for change, p in zip(found, adjusted, strict=True)), tuple(notes))


def _terms(old: Part, new: Part) -> list[str]:
    told = []
    for name in ("dataset", "subset", "images", "threat", "budget", "batch", "seed"):
        then, value = old.protocol.get(name), new.protocol.get(name)
        if then != value:
            show = (lambda found: str(parse_threat(found))) if name == "threat" else str
            told.append("other images" if name == "subset" else f"{name} {show(then)} and {show(value)}")
    return told


def _paired(old: Part, new: Part, notes: list[str]) -> Iterator[Change]:
    common = [name for name in old.ids if name in set(new.ids)]
    if len(common) < max(len(old.ids), len(new.ids)):
        notes.append(f"{len(common)} images are in both, of {len(old.ids)} and {len(new.ids)}")
    first, second = ({name: i for i, name in enumerate(ids)} for ids in (old.ids, new.ids))
    rows, others = [first[name] for name in common], [second[name] for name in common]
    present = {(*cell.who, cell.attack): cell for cell in new.cells}
    alone = []
    for cell in old.cells:
        twin = present.pop((*cell.who, cell.attack), None)
        if twin is None:
            alone.append(cell.label)
        elif common:
            yield _change(cell, twin, tuple(common), rows, others)
    for which, labels in (("first", alone), ("second", [cell.label for cell in present.values()])):
        if labels:
            notes.append(f"only in the {which}: {', '.join(labels[:4])}{f' and {len(labels) - 4} more' if len(labels) > 4 else ''}")


def _change(old: Cell, new: Cell, ids: tuple[str, ...], rows: list[int], others: list[int]) -> Change:
    weights = stats.resamples(len(ids))
    before, now = old.adversarial_macs[rows], new.adversarial_macs[others]
    clean_before, clean_now = old.clean_macs[rows], new.clean_macs[others]
    cost, clean = now / new.reference - before / old.reference, clean_now / new.reference - clean_before / old.reference
    return Change(
        target=old.target,
        defense=old.defense,
        attack=old.attack,
        ids=ids,
        before=before,
        now=now,
        clean_before=clean_before,
        clean_now=clean_now,
        reference=new.reference,
        cost=stats.mean_estimate(cost, weights),
        p=stats.sign_flip_p(cost),
        clean_cost=stats.mean_estimate(clean, weights),
        accuracy=float(new.adversarial_correct[others].mean() - old.adversarial_correct[rows].mean()),
        clean_accuracy=float(new.clean_correct[others].mean() - old.clean_correct[rows].mean()),
    )


def saved_images(folder: Path, change: Change, ids: Sequence[str]) -> dict[str, tuple[bytes, bytes]]:
    """id -> (clean, adversarial) PNG bytes of some images of a cell, as a run saved them."""
    run = RunFolder(folder)
    wanted = set(ids)
    found: dict[str, tuple[bytes, bytes]] = {}
    for board in run.plan()["boards"]:
        for entry in board["cells"]:
            labels = entry["target"]["label"], entry["defense"]["label"] if entry["defense"] else "", entry["attack"]["label"]
            if labels == (change.target, change.defense, change.attack):
                for row in run.cell(entry["key"]).table(["id", "image", "adversarial"]).to_pylist():
                    if row["id"] in wanted:
                        found.setdefault(row["id"], (row["image"]["bytes"], row["adversarial"]["bytes"]))
    return found
