"""What a verification of somebody's run comes to: what was looked at, what does not hold, and the
cell under examination."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.contracts.cell import Cell
from bench.errors import GatebenchError, in_words
from bench.store.folder import CellFolder
from bench.store.target import TargetDescription

UNCHECKED = (
    "which attack found an image, and how: evaluations, passes, held, flipped and traces are only "
    "compared with each other",
    "float_macs and overshoot: the float images are not stored; float_macs is only compared with "
    "floor and bound",
    "what attacks learned on the images of the fit (fit.json), and how many images a run audited",
    "the environment that shards state: it is only the same in all files of a cell",
    "labels, series and reasons for what was excluded, failed or withdrawn, and who handed rows in",
    "the name, command and pages of plan.json, log.txt, board files, pages, and the records of "
    "headroom, latency and transfer",
)
"""What no verification can make again from a run's folder, in words."""


NOT_DRAWN = "predictions, decisions, jpeg_macs and near_threshold of images that were not drawn: {}"
"""What is not made again where only some images are executed: how many."""
LEFT_OUT = (
    "cells that --only leaves out: what their images execute, and what their target.json says "
    "(floor, ceiling, reference, bound, draws, units, noise, gradients, yardstick, classes, data "
    "set): {}"
)
"""What is not made again where only some cells are executed: their labels."""
_LISTED = 8


@dataclass
class Findings:
    """What a verification looked at, and what does not hold.

    Attributes:
        seed: which images were executed.
        problems: sentences that name cell, image, column and both values.
        remarks: what could not be checked, or differs for a reason.
        unchecked: what was not made again, in words.
        cells: how many cells were looked at.
        images: how many rows were looked at.
        executed: images executed again.
        counted: images whose execution was counted again.
    """

    seed: int
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    unchecked: list[str] = field(default_factory=lambda: list(UNCHECKED))
    cells: int = 0
    images: int = 0
    executed: int = 0
    counted: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def note_unchecked(self, left_out: Sequence[str], not_drawn: int) -> None:
        """Say what was not executed.

        Args:
            left_out: labels of the cells.
            not_drawn: images of the other cells.
        """
        if left_out:
            more = len(left_out) - _LISTED
            listed = [*left_out[:_LISTED], *([f"{more} more"] if more > 0 else [])]
            self.unchecked.append(LEFT_OUT.format(", ".join(listed)))
        if not_drawn:
            self.unchecked.append(NOT_DRAWN.format(not_drawn))

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {"schema": 1, "holds": self.holds, **vars(self)}


@dataclass(frozen=True)
class Examined:
    """One cell under examination.

    Attributes:
        cell: as the plan has it.
        folder: where it lies.
        rows: one an image.
        target: what its target says of itself.
        elsewhere: whether it was made with other code, versions or on another device than here.
        readable: whether its pictures are what its images are; nothing else is executed.
    """

    cell: Cell
    folder: CellFolder
    rows: Sequence[Mapping[str, Any]]
    target: TargetDescription
    elsewhere: bool = False
    readable: bool = True

    @property
    def label(self) -> str:
        """What it is called."""
        return self.cell.label


@contextlib.contextmanager
def examined(label: str, found: Findings) -> Iterator[None]:
    """What breaks while a cell is looked at is that cell's problem, and the others are looked at
    all the same."""
    try:
        yield
    except GatebenchError as error:
        found.problems.append(f"{label}: {error.message}")
    except (Exception, SystemExit) as error:  # a folder or a plugin of others may do anything
        found.problems.append(f"{label}: cannot be examined: {in_words(error)}")


def short(value: Any) -> str:
    """A value in a sentence, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
