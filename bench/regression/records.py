"""What a run measured, image by image: the sealed cells of each board as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.contracts.cell import Cell, Fit, Precision, Who, cell_label, defended_name
from bench.contracts.threat import Threat, parse_threat
from bench.plans.stored import StoredBoard, StoredPlan
from bench.results.cells import ReadCell
from bench.results.reading import read_boards
from bench.results.records import BoardCell
from bench.results.stats import Array
from bench.store.folder import RunFolder


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


def measured_boards(run: RunFolder, plan: StoredPlan) -> tuple[MeasuredBoard, ...]:
    """The sealed cells of each board of a run, and why the others have no numbers."""
    return tuple(
        _measured_board(board, cells)
        for board, cells in zip(plan.boards, read_boards(run, plan), strict=True)
    )


def _measured_board(board: StoredBoard, read: Sequence[ReadCell]) -> MeasuredBoard:
    """One board, of its cells as all boards are made of them."""
    cells: list[MeasuredCell] = []
    ids: tuple[str, ...] = ()
    left_out: dict[str, str] = {}
    for (key, cell), one in zip(board.cells.items(), read, strict=True):
        if one.clean is None or one.scores is None:
            left_out[cell.label] = _without_numbers(one.cell)
        else:
            ids = one.clean.ids
            cells.append(_described(key, cell, numbers=one))
    return MeasuredBoard(Terms.of(board), ids, tuple(cells), left_out)


def _without_numbers(cell: BoardCell) -> str:
    """Why a cell has none."""
    if cell.status == "missing":
        return "not finished"
    return f"{'altered' if cell.refused else cell.status}: {cell.reason}"


def planned_board(board: StoredBoard) -> MeasuredBoard:
    """What a board is going to measure: terms and cells, no numbers yet."""
    live = [_described(key, cell) for key, cell in board.cells.items() if not cell.excluded]
    excluded = {
        cell.label: f"skipped: {cell.excluded}" for cell in board.cells.values() if cell.excluded
    }
    return MeasuredBoard(Terms.of(board), (), tuple(live), excluded)


def _described(key: str, cell: Cell, numbers: ReadCell | None = None) -> MeasuredCell:
    """A cell with its numbers, or with none of them."""
    target, defense, attack = cell.labels
    found = numbers.cell if numbers else None
    columns = (numbers.scores if numbers else None) or {}
    none, neither = np.zeros(0, np.int64), np.zeros(0, np.bool_)
    return MeasuredCell(
        target=target,
        defense=defense,
        attack=attack,
        key=key,
        inputs=cell.identity(),
        control=cell.attack.control,
        reference=(found.reference if found else None) or 0,
        floor=(found.floor if found else None) or 0,
        ceiling=(found.ceiling if found else None) or 0,
        clean_macs=columns.get("clean_macs", none),
        adversarial_macs=columns.get("adversarial_macs", none),
        clean_correct=columns.get("clean_correct", neither),
        adversarial_correct=columns.get("adversarial_correct", neither),
    )
