"""Two runs side by side, image by image: which images got dearer or cheaper, and by how much.

Where `bench.regression.check` passes judgement, this shows. Cells are matched by their labels
inside the boards whose terms differ least; what has no counterpart is named, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts.cell import cell_label
from bench.errors import NotComparable
from bench.plans.stored import read_plan
from bench.regression.baseline import Baseline
from bench.regression.matching import OTHER_IMAGES, changed_inputs, differing, nearest
from bench.regression.records import MeasuredBoard, MeasuredCell
from bench.results import paired, stats
from bench.results.stats import Array, Estimate
from bench.store.folder import RunFolder
from bench.terminal import counted


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean change over images, with a paired bootstrap interval; p: two-sided, paired, Holm over
    all cells."""

    p: float = 1.0


MEASURES = ("cost", "clean_cost", "accuracy", "clean_accuracy")


@dataclass(frozen=True)
class Change:
    """One cell in both runs, all images of both.

    Attributes:
        target, defense, attack: labels.
        boards: number of its board in either run.
        terms: of that board, "" where there is only one.
        ids: images that both have.
        before, now: (n,) int64 adversarial MACs;
        clean_before, clean_now: clean MACs.
        reference: undefended ceiling of the second run.
        cost: change of adversarial MACs as a share of each run's reference, which is the surviving
            saving that is lost.
        clean_cost: the same of clean MACs.
        accuracy, clean_accuracy: change of the share of right answers.
    """

    target: str
    defense: str
    attack: str
    boards: tuple[int, int]
    terms: str
    ids: tuple[str, ...]
    before: Array
    now: Array
    clean_before: Array
    clean_now: Array
    reference: int
    cost: Difference
    clean_cost: Difference
    accuracy: Difference
    clean_accuracy: Difference

    @property
    def label(self) -> str:
        """How the cell is called, with its board where there are several."""
        name = cell_label(self.target, self.defense, self.attack)
        return f"{name} ({self.terms})" if self.terms else name

    @property
    def macs(self) -> float:
        """Mean change of adversarial MACs."""
        return float((self.now - self.before).mean())

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
        """As JSON; of `changed` every image whose adversarial MACs are others, largest change
        first."""
        return {
            "target": self.target,
            "defense": self.defense,
            "attack": self.attack,
            "boards": list(self.boards),
            "images": len(self.ids),
            "dearer": self.dearer,
            "cheaper": self.cheaper,
            "macs": self.macs,
            "reference": self.reference,
            **{name: asdict(getattr(self, name)) for name in MEASURES},
            "changed": [
                {"id": self.ids[i], "before": int(self.before[i]), "now": int(self.now[i])}
                for i in self.largest(len(self.ids))
            ],
        }


@dataclass(frozen=True)
class Comparison:
    """What two runs have in common, and what they do not."""

    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema": 1,
            "changes": [change.document() for change in self.changes],
            "notes": list(self.notes),
        }


def compare(before: Baseline, now: Baseline) -> Comparison:
    """Pair the cells of two runs.

    Raises:
        NotComparable: they have no cell with a common image.
    """
    notes: list[str] = []
    found: list[Change] = []
    several = len(before.boards) > 1
    twins = _twins(before.boards, now.boards)
    left = [part for part in now.boards if not any(part is twin for twin in twins)]
    for number, (old, new) in enumerate(zip(before.boards, twins, strict=True)):
        if new is None:
            notes.append(f"the second run has no board for {old.terms}")
            continue
        where = f"{old.terms}: " if several else ""
        for name, then, value in differing(old, new):
            notes.append(
                f"{where}measured otherwise: {OTHER_IMAGES.get(name, f'{name} {then} and {value}')}"
            )
        boards = number, next(i for i, part in enumerate(now.boards) if part is new)
        found += [
            replace(change, boards=boards, terms=old.terms if several else "")
            for change in _paired(old, new, notes)
        ]
    notes += [f"the first run has no board for {part.terms}" for part in left]
    if not found:
        raise NotComparable(
            "the runs have no cell in common on common images",
            hint="cells are matched by the labels of target, defense and attack",
        )
    return Comparison(tuple(_adjusted(found)), tuple(dict.fromkeys(notes)))


def _twins(
    before: Sequence[MeasuredBoard], now: Sequence[MeasuredBoard]
) -> list[MeasuredBoard | None]:
    """The board of the second run that each of the first is held against: one of the same terms,
    else the nearest that is left."""
    left = list(now)
    found: list[MeasuredBoard | None] = [None] * len(before)
    for alike in (True, False):
        for i, old in enumerate(before):
            if found[i] is None and left:
                new = nearest(old, left)
                if not alike or not differing(old, new):
                    found[i] = new
                    left = [part for part in left if part is not new]
    return found


def _paired(old: MeasuredBoard, new: MeasuredBoard, notes: list[str]) -> Iterator[Change]:
    there = set(new.ids)
    common = [name for name in old.ids if name in there]
    if len(common) < max(len(old.ids), len(new.ids)):
        notes.append(
            f"both have {counted(len(common), 'image')}, of {len(old.ids)} and {len(new.ids)}"
        )
    first, second = ({name: i for i, name in enumerate(ids)} for ids in (old.ids, new.ids))
    rows, others = [first[name] for name in common], [second[name] for name in common]
    weights = stats.resamples(len(common)) if common else np.zeros((0, 0))
    present = {cell.labels: cell for cell in new.cells}
    for cell in old.cells:
        twin = present.pop(cell.labels, None)
        if twin is None:
            notes.append(f"only in the first: {cell.label}{_why(new, cell)}")
        elif common:
            notes += changed_inputs(cell, twin)
            yield _change(cell, twin, tuple(common), rows, others, weights)
    notes += [f"only in the second: {cell.label}{_why(old, cell)}" for cell in present.values()]
    both = [
        label
        for label in old.left_out
        if label in new.left_out and not old.left_out[label].startswith("skipped")
    ]
    notes += [f"in neither: {label}, {old.left_out[label]}" for label in both]


def _why(other: MeasuredBoard, cell: MeasuredCell) -> str:
    """What the other run says of a cell that has numbers in one only."""
    reason = other.left_out.get(cell.label)
    return f" (in the other it is {reason})" if reason else ""


def _change(
    old: MeasuredCell,
    new: MeasuredCell,
    ids: tuple[str, ...],
    rows: list[int],
    others: list[int],
    weights: Array,
) -> Change:
    def difference(before: Array, now: Array) -> Difference:
        values = now.astype(np.float64) - before.astype(np.float64)
        if not values.any():
            return Difference(0.0, 0.0, 0.0)
        mean = stats.mean_estimate(values, weights)
        return Difference(mean.value, mean.low, mean.high, paired.sign_flip_p(values))

    before, now = old.adversarial_macs[rows], new.adversarial_macs[others]
    clean_before, clean_now = old.clean_macs[rows], new.clean_macs[others]
    return Change(
        *old.labels,
        boards=(0, 0),
        terms="",
        ids=ids,
        before=before,
        now=now,
        clean_before=clean_before,
        clean_now=clean_now,
        reference=new.reference,
        cost=difference(before / old.reference, now / new.reference),
        clean_cost=difference(clean_before / old.reference, clean_now / new.reference),
        accuracy=difference(old.adversarial_correct[rows], new.adversarial_correct[others]),
        clean_accuracy=difference(old.clean_correct[rows], new.clean_correct[others]),
    )


def _adjusted(found: Sequence[Change]) -> Iterator[Change]:
    """Holm, a family for each measure; what the attacks on one target share counts once in it."""
    adjusted: dict[str, list[float]] = {}
    for measure in MEASURES:
        of_target = measure.startswith("clean")
        tests = [
            (change.boards, change.target, change.defense, "" if of_target else change.attack)
            for change in found
        ]
        p = {test: getattr(change, measure).p for test, change in zip(tests, found, strict=True)}
        corrected = dict(zip(p, paired.holm(list(p.values())), strict=True))
        adjusted[measure] = [corrected[test] for test in tests]
    for i, change in enumerate(found):
        yield replace(
            change,
            **{
                measure: replace(getattr(change, measure), p=adjusted[measure][i])
                for measure in MEASURES
            },
        )


def saved_images(
    folder: Path, board: int, change: Change, ids: Sequence[str]
) -> dict[str, tuple[bytes, bytes]]:
    """id -> (clean, adversarial) PNG bytes of some images of a cell, as a run saved them.

    Args:
        board: number of the cell's board in this run.
    """
    run = RunFolder(folder)
    wanted = set(ids)
    for key, cell in read_plan(run).boards[board].cells.items():
        if cell.labels == (change.target, change.defense, change.attack):
            size = run.cell(key).target().picture_size
            rows = run.cell(key).table(["id", "image", "adversarial"], size=size).to_pylist()
            return {
                row["id"]: (row["image"]["bytes"], row["adversarial"]["bytes"])
                for row in rows
                if row["id"] in wanted
            }
    return {}
