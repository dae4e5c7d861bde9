"""What a run measured, image by image: the sealed cells of each board as columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.contracts.cell import Cell, Fit, Precision, Who, cell_label, defended_name
from bench.contracts.threat import Threat, parse_threat
from bench.errors import RunFolderError
from bench.plans.stored import StoredBoard
from bench.results.stats import Array
from bench.store.folder import CellFolder, RunFolder
from bench.store.measured import check_measured
from bench.store.schema import names


@dataclass(frozen=True)
class Terms:
    """Under what terms a board was measured.

    Attributes:
        dataset: as it turned out to be.
        subset: digest of its images.
        images: how many.
        batch: images of a batch.
        threat: what a saved image may change.
        budget: forward-equivalents an image.
        seed: of random draws.
        audit: images of every cell whose execution is counted.
        precision: of gradient passes, where it is not float32.
        fit: what is learned from, where a cell learns something.
        fit_subset: digest of the images of the fit, where a cell learns something.
    """

    dataset: str
    subset: str
    images: int
    batch: int
    threat: Threat
    budget: int
    seed: int
    audit: int
    precision: Precision | None = None
    fit: Fit | None = None
    fit_subset: str | None = None

    @classmethod
    def of(cls, board: StoredBoard) -> Terms:
        """The terms of a board; those of the fit only where something fits."""
        found = {**vars(board.protocol), "dataset": board.dataset, "subset": board.subset}
        if board.protocol.precision == "float32":
            del found["precision"]
        if any(cell.fits for cell in board.cells.values()):
            return cls(**found, fit_subset=board.fit_subset)
        return cls(**{**found, "fit": None})

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Terms:
        """The terms as a baseline holds them.

        Raises:
            PlanError: the threat is none.
            KeyError, TypeError, ValueError: it holds no terms.
        """
        found = dict(document)
        found["threat"] = parse_threat(found["threat"])
        if "fit" in found:
            found["fit"] = Fit(**found["fit"])
        terms = cls(**found)
        for name in ("images", "batch", "budget", "seed", "audit"):
            if type(found[name]) is not int:
                raise TypeError(f"{name} is a whole number")
        return terms

    def document(self) -> dict[str, Any]:
        """As a baseline holds them."""
        found = {name: value for name, value in vars(self).items() if value is not None}
        found["threat"] = self.threat.document()
        if self.fit is not None:
            found["fit"] = dict(vars(self.fit))
        return found

    def __str__(self) -> str:
        """What tells the boards of one run apart."""
        return f"{self.threat}, budget {self.budget}, seed {self.seed}"


@dataclass(frozen=True)
class MeasuredCell:
    """One sealed cell; columns are (n,), in the order of the board's ids.

    Attributes:
        target: by label.
        defense: by label, "" for none.
        attack: by label.
        inputs: what target, defense and attack are, as far as numbers go.
        control: whether it is a control, which is not ranked.
        reference: MACs of the undefended network with everything on.
        ceiling: of the target itself.
        clean_macs: int64.
        adversarial_macs: int64.
        clean_correct: bool.
        adversarial_correct: bool.
        key: of the cell's folder.
        floor: of the target itself.
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
    def who(self) -> Who:
        """The target and its defense."""
        return self.target, self.defense

    @property
    def label(self) -> str:
        """What it is called in messages."""
        return cell_label(*self.labels)

    @property
    def defended(self) -> str:
        """The target with its defense, in words."""
        return defended_name(*self.who)


@dataclass(frozen=True)
class MeasuredBoard:
    """The cells of one board.

    Attributes:
        protocol: under what terms.
        ids: of the images.
        cells: with numbers.
        left_out: label -> why a cell has none; in no file.
    """

    protocol: Terms
    ids: tuple[str, ...]
    cells: tuple[MeasuredCell, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def terms(self) -> str:
        """What tells the boards of one run apart."""
        return str(self.protocol)


def measured_board(run: RunFolder, board: StoredBoard) -> MeasuredBoard:
    """The sealed cells of one board, and why the others have no numbers."""
    cells: list[MeasuredCell] = []
    ids: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    for key, cell in board.cells.items():
        try:
            found, own = _measured(run.cell(key), key, cell)
        except (_LeftOut, RunFolderError, ValueError) as error:
            reason = error.message if isinstance(error, RunFolderError) else str(error)
            left_out[cell.label] = reason if isinstance(error, _LeftOut) else f"altered: {reason}"
            continue
        ids = ids or own
        if own != ids:
            left_out[cell.label] = "altered: it has other images than the cells before it"
        else:
            cells.append(found)
    return MeasuredBoard(Terms.of(board), ids, tuple(cells), left_out)


def planned_board(board: StoredBoard) -> MeasuredBoard:
    """What a board is going to measure: terms and cells, no numbers yet."""
    live = [_described(key, cell) for key, cell in board.cells.items() if not cell.excluded]
    excluded = {
        cell.label: f"skipped: {cell.excluded}" for cell in board.cells.values() if cell.excluded
    }
    return MeasuredBoard(Terms.of(board), (), tuple(live), excluded)


class _LeftOut(Exception):
    """A cell without numbers, and why."""


def _measured(folder: CellFolder, key: str, cell: Cell) -> tuple[MeasuredCell, tuple[str, ...]]:
    """A sealed cell and the ids of its images.

    Raises:
        _LeftOut: it has no numbers.
        RunFolderError, ValueError: what lies there does not hang together.
    """
    if cell.excluded:
        raise _LeftOut(f"skipped: {cell.excluded}")
    sealed = folder.sealed()
    if sealed is None:
        raise _LeftOut("not finished")
    if sealed.status != "ok":
        raise _LeftOut(f"{sealed.status}: {sealed.reason}")
    if wrong := folder.altered(sealed.shards):
        raise _LeftOut(f"altered: {wrong[0]} is not what was sealed")
    table, target = folder.table(names(plain=True)), folder.target()
    check_measured(table, cell, target, sealed.combination)
    table = table.select(names(compared=True))
    rows = {name: table[name].to_pylist() for name in table.column_names}
    label = np.array(rows["label"])
    return _described(
        key,
        cell,
        reference=target.reference,
        floor=target.floor,
        ceiling=target.ceiling,
        clean_macs=np.array(rows["clean_macs"], dtype=np.int64),
        adversarial_macs=np.array(rows["adversarial_macs"], dtype=np.int64),
        clean_correct=np.array(rows["clean_prediction"]) == label,
        adversarial_correct=np.array(rows["adversarial_prediction"]) == label,
    ), tuple(rows["id"])


def _described(key: str, cell: Cell, **numbers: Any) -> MeasuredCell:
    """A cell with its numbers, or with none of them."""
    none = dict.fromkeys(("reference", "floor", "ceiling"), 0)
    whole, bits = np.zeros(0, np.int64), np.zeros(0, bool)
    empty = {"clean_macs": whole, "adversarial_macs": whole}
    empty |= {"clean_correct": bits, "adversarial_correct": bits}
    target, defense, attack = cell.labels
    return MeasuredCell(
        target=target,
        defense=defense,
        attack=attack,
        key=key,
        inputs=cell.identity(),
        control=cell.attack.control,
        **{**none, **empty, **numbers},
    )
