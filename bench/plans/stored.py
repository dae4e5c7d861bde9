"""The plan of a run as it lies in its folder: plan.json, read, checked and written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bench.contracts.cell import SCHEMA, Cell, Component, Fit, Precision, Protocol
from bench.contracts.threat import parse_threat
from bench.errors import PlanError, RunFolderError
from bench.files.canonical import canonical, digest
from bench.plans.labels import check_labels
from bench.plans.plan import COST_MODEL, Plan, plan_document
from bench.store.documents import read_document
from bench.store.folder import PLAN, RunFolder
from bench.terminal import printable

_KEY = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredBoard:
    """A board of a plan, with its images pinned.

    Attributes:
        protocol: of its cells.
        cells: key -> cell, in the order of the plan.
        dataset: name of the data set, as it turned out to be.
        subset: digest of its images.
        fit_subset: digest of the images of the fit, "" where nothing fits.
    """

    protocol: Protocol
    cells: Mapping[str, Cell]
    dataset: str
    subset: str
    fit_subset: str = ""

    @property
    def terms(self) -> str:
        """What tells the boards of one run apart, in words."""
        return self.protocol.terms

    def key(self, cell: Cell) -> str:
        """The key that a cell has on this board by its content."""
        return cell.key(f"{self.dataset} {self.subset}", COST_MODEL, self.fit_subset)

    def check_told_apart(self) -> None:
        """Refuse what no plan.json may hold: labels that say nothing, or that are the same, or look
        the same, for different things. Whoever puts cells together asks before writing them.

        Raises:
            ValueError: naming the label.
        """
        things: dict[str, dict[str, Component]] = {"target": {}, "defense": {}, "attack": {}}
        seen: set[tuple[str, str, str]] = set()
        for cell in self.cells.values():
            if cell.labels in seen:
                raise ValueError(f"two cells are called {cell.label[:120]!r}")
            seen.add(cell.labels)
            for kind, known in things.items():
                part: Component | None = getattr(cell, kind)
                if part is None:
                    continue
                first = known.setdefault(part.label, part)
                if first != part and first.identity() != part.identity():
                    raise ValueError(f"two {kind}s are called {part.label[:60]!r}")
        for known in things.values():
            check_labels(known)


@dataclass(frozen=True)
class StoredPlan:
    """The resolved plan of a run.

    Attributes:
        name: of the run.
        digest: that the plan had when it was written.
        command: what reproduces the run.
        pages: what else the report shows.
        boards: in the order of the plan.
    """

    name: str
    digest: str
    command: str
    pages: Mapping[str, Any]
    boards: tuple[StoredBoard, ...]

    @classmethod
    def of(
        cls, plan: Plan, *, name: str, command: str, dataset: str, subset: str, fit_subset: str
    ) -> StoredPlan:
        """A plan whose images are known.

        Args:
            plan: what is to be run.
            name: of the run.
            command: what reproduces it.
            dataset: name of the data set, as it turned out to be.
            subset: digest of its images.
            fit_subset: digest of the images of the fit, "" where nothing fits.
        """
        boards = []
        name, command = printable(name), printable(command)  # paths may be no text
        for cells in plan.boards:
            bare = StoredBoard(cells[0].protocol, {}, dataset, subset, fit_subset)
            keyed = {bare.key(cell): cell for cell in cells}
            boards.append(StoredBoard(bare.protocol, keyed, dataset, subset, fit_subset))
        return cls(name, plan.digest, command, plan.pages, tuple(boards))

    @property
    def cells(self) -> dict[str, Cell]:
        """Key -> cell of all boards."""
        return {key: cell for board in self.boards for key, cell in board.cells.items()}

    def planned(self) -> StoredPlan:
        """The plan without the rows that were handed in."""
        boards = tuple(
            replace(
                board,
                cells={key: one for key, one in board.cells.items() if not one.is_handed_in},
            )
            for board in self.boards
        )
        found = replace(self, boards=boards)
        return self if found == self else replace(found, digest=found.content_digest())

    def with_handed_in(self, other: StoredPlan) -> StoredPlan:
        """This plan with the rows that were handed in to another one, board by board.

        Boards of other terms or images take nothing over.
        """
        theirs = {
            (board.dataset, board.subset, canonical(board.protocol.document())): {
                key: one for key, one in board.cells.items() if one.is_handed_in
            }
            for board in other.boards
        }
        boards = tuple(
            replace(
                board,
                cells={
                    **board.cells,
                    **theirs.get(
                        (board.dataset, board.subset, canonical(board.protocol.document())), {}
                    ),
                },
            )
            for board in self.boards
        )
        found = replace(self, boards=boards)
        return self if found == self else replace(found, digest=found.content_digest())

    def content_digest(self) -> str:
        """The digest that the plan has by its content."""
        boards = ((board.protocol, list(board.cells.values())) for board in self.boards)
        return digest(plan_document(self.pages, boards))

    def document(self) -> dict[str, Any]:
        """As written to plan.json."""
        boards = [
            {
                "protocol": board.protocol.document(),
                "cells": [{**cell.document(), "key": key} for key, cell in board.cells.items()],
                "dataset": board.dataset,
                "subset": board.subset,
                "fit_subset": board.fit_subset,
            }
            for board in self.boards
        ]
        return {
            "schema": SCHEMA,
            "name": self.name,
            "digest": self.digest,
            "command": self.command,
            "pages": dict(self.pages),
            "boards": boards,
        }


def read_plan(run: RunFolder) -> StoredPlan:
    """The resolved plan of a run.

    Raises:
        RunFolderError: it is not there, damaged, no plan, or of a newer schema.
    """
    path = run.path / PLAN
    found = read_document(path, _PlanDocument, called="plan of a run")
    try:
        boards = tuple(_boards(found))
    except (PlanError, ValueError) as error:
        said = error.message if isinstance(error, PlanError) else str(error)
        raise RunFolderError(
            f"{path} is no plan of a run: {said}", hint="choose another folder with --name"
        ) from error
    return StoredPlan(found.name, found.digest, found.command, found.pages, boards)


@dataclass(frozen=True)
class _ProtocolDocument:
    """A protocol as stored: its threat is a word or a table."""

    dataset: str
    images: int
    batch: int
    threat: str | Mapping[str, str | int]
    budget: int
    seed: int
    audit: int
    fit: Fit
    precision: Precision = "float32"


@dataclass(frozen=True)
class _CellDocument:
    key: str
    target: Component
    defense: Component | None
    attack: Component
    excluded: str


@dataclass(frozen=True)
class _BoardDocument:
    protocol: _ProtocolDocument
    cells: tuple[_CellDocument, ...]
    dataset: str
    subset: str
    fit_subset: str = ""


@dataclass(frozen=True)
class _PlanDocument:
    name: str
    digest: str
    command: str
    pages: Mapping[str, Any]
    boards: tuple[_BoardDocument, ...]


def _boards(found: _PlanDocument) -> Iterator[StoredBoard]:
    if not found.boards:
        raise ValueError("it has no board")
    for number, board in enumerate(found.boards):
        where = f"boards[{number}]"
        terms = board.protocol
        if min(terms.images, terms.batch, terms.budget, terms.fit.images) < 1:
            raise ValueError(f"{where}.protocol: images, batch and budget are at least 1")
        if min(terms.seed, terms.audit, terms.fit.budget) < 0:
            raise ValueError(f"{where}.protocol: seed and audit are at least 0")
        threat = parse_threat(terms.threat, f"{where}.protocol.threat")
        protocol = Protocol(**{**vars(terms), "threat": threat})
        cells: dict[str, Cell] = {}
        for entry in board.cells:
            if not _KEY.fullmatch(entry.key) or entry.key in cells:
                raise ValueError(f"{where}: {entry.key[:70]!r} is no key, or there twice")
            cells[entry.key] = Cell(
                protocol, entry.target, entry.attack, entry.defense, entry.excluded
            )
        made = StoredBoard(protocol, cells, board.dataset, board.subset, board.fit_subset)
        try:
            made.check_told_apart()
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield made
