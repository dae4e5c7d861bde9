"""Recovery against visibility: the front that an attack's cells draw over sweeps, threats and
boards, and one number for it.

A point is a cell: its recovery, at the PSNR of the mean squared error over all its images. A
perturbation of more PSNR fits under any lower floor, so the front at x dB is the largest recovery
among the points of x dB or more, and at least 0, which doing nothing achieves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.contracts.cell import defended_name
from bench.contracts.threat import PSNR_CAP
from bench.files.canonical import digest
from bench.results.records import Board, BoardCell

LOWEST, HIGHEST = 30.0, 50.0
"""dB between which the area under a front is taken."""


@dataclass(frozen=True)
class CellPoint:
    """A cell on a front: PSNR in dB, recovery with its interval, where it comes from."""

    psnr: float
    recovery: float
    low: float | None
    high: float | None
    key: str
    board: str


@dataclass(frozen=True)
class Front:
    """The points of one series of cells on one target, most visible first.

    Attributes:
        target, defense, series: whose.
        budget: forward-equivalents an image (of an ensemble the sum).
        control: whether it is a control.
        images: of each point.
        points: of all boards that share data set, images, seed and budget.
        dataset: of the points.
        seed: of their random draws.
    """

    target: str
    defense: str
    series: str
    budget: str
    control: bool
    images: int
    points: tuple[CellPoint, ...]
    dataset: str = ""
    seed: str = ""

    @property
    def defended(self) -> str:
        """The target with its defense."""
        return defended_name(self.target, self.defense)

    def at(self, psnr: float) -> float:
        """The largest recovery that keeps to this PSNR floor."""
        return max([0.0, *(point.recovery for point in self.points if point.psnr >= psnr)])

    @property
    def area(self) -> float:
        """Mean of `at` between `LOWEST` and `HIGHEST` dB, in [0, 1]; exact, as the front is a
        staircase.
        """
        marks = sorted(
            {
                LOWEST,
                HIGHEST,
                *(point.psnr for point in self.points if LOWEST < point.psnr < HIGHEST),
            }
        )
        return sum((high - low) * self.at(high) for low, high in pairwise(marks)) / (
            HIGHEST - LOWEST
        )

    def psnr_at(self, recovery: float) -> float | None:
        """The highest PSNR at which this share is recovered; None where none is."""
        return max(
            (point.psnr for point in self.points if point.recovery >= recovery), default=None
        )


def fronts(boards: Sequence[Board]) -> list[Front]:
    """The fronts of these boards, in plan order; cells without a recovery or with unchanged images
    draw none.

    Cells belong together when target, defense, series, data set, images, seed and budget are the
    same, whatever threat they ran under; and not by their labels alone, as those of several runs
    may call two networks or attacks the same.
    """
    found: dict[tuple[_Labels, _Terms, str], list[CellPoint]] = {}
    for board in boards:
        for cell in board.cells:
            point = _point(board, cell)
            if point is not None:
                found.setdefault(_whose(board, cell), []).append(point)
    return [
        Front(*labels, tuple(sorted(points, key=lambda one: one.psnr)), *terms)
        for (labels, terms, _), points in found.items()
    ]


_Labels = tuple[str, str, str, str, bool, int]
_Terms = tuple[str, str]


def _whose(board: Board, cell: BoardCell) -> tuple[_Labels, _Terms, str]:
    """What the cells of a front have in common: the fields of `Front` before and behind its points,
    and a digest of what their labels stand for.
    """
    protocol = board.protocol
    budget, images = (
        cell.combination.get("budget", protocol.get("budget", 0)),
        protocol.get("images", 0),
    )
    count = images if isinstance(images, int) else 0
    series = cell.series or cell.attack
    attack = cell.inputs.get("attack") or {}
    kind = [attack.get(name) for name in ("distribution", "name", "version")]
    return (
        (cell.target, cell.defense, series, str(budget), cell.control, count),
        (board.dataset, str(protocol.get("seed"))),
        digest([cell.network, kind]),
    )


def _point(board: Board, cell: BoardCell) -> CellPoint | None:
    psnr = cell.overall_psnr
    if cell.status != "ok" or cell.recovery.value is None or psnr is None or psnr >= PSNR_CAP:
        return None
    return CellPoint(
        psnr, cell.recovery.value, cell.recovery.low, cell.recovery.high, cell.key, board.name
    )
