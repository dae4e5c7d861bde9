"""What `gatebench headroom` wrote: how far a run's strongest numbers are from converged.

headroom.json in the run's folder holds, for each board and defended target, a reference run at a
multiple of the budget on some of the board's images. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.contracts.cell import Who
from bench.errors import RunFolderError
from bench.plans.stored import StoredBoard
from bench.results.stats import UNDEFINED, Estimate, has_reserve, ratio_estimate, resamples
from bench.results.transfer import readable_digest
from bench.store.documents import SCHEMA, Count, Natural, Number, Size, read_document
from bench.store.folder import RunFolder
from bench.terminal import counted

FILE = "headroom.json"
TIMES = 10
"""The reference run's budget in those of the board, unless told otherwise."""
IMAGES = 16
"""Images of a reference run, unless told otherwise."""


@dataclass(frozen=True)
class HeadroomEntry:
    """The reference run on one defended target of a board.

    Attributes:
        board: number of the board in the plan.
        target: label.
        defense: label, "" for none.
        attack: label of the attack that was run again.
        images: of the board's first ones, how many.
        times: the reference's budget, in the board's.
        budget: the reference's, forward-equivalents an image.
        recovery: of the board's strongest image each, a share; None where undefined.
        gain: recovery that the reference adds to it, a share; None where undefined.
        low: end of its 95 % interval.
        high: other end.
        sources: key -> digest of the cells it was held against.
    """

    board: Count
    target: str
    defense: str
    attack: str
    images: Natural
    times: Natural
    budget: Natural
    recovery: Number | None
    gain: Size | None
    low: Number | None
    high: Number | None
    sources: Mapping[str, str]

    @property
    def who(self) -> Who:
        """The target and its defense, by label."""
        return self.target, self.defense

    @property
    def added(self) -> Estimate:
        """What the reference adds to the recovery, with its 95 % interval."""
        return Estimate(self.gain, self.low, self.high)


@dataclass(frozen=True)
class Headroom:
    """All that `gatebench headroom` found in a run.

    Attributes:
        entries: one for each board and defended target.
    """

    entries: tuple[HeadroomEntry, ...]

    def document(self) -> dict[str, Any]:
        """As written to headroom.json."""
        return {"schema": SCHEMA, **asdict(self)}


def gain(kept: Sequence[int], found: Sequence[int], clean: Sequence[int], ceiling: int) -> Estimate:
    """Recovery that a reference run adds to the strongest image that a board has, as a share;
    undefined where recovery is.

    Args:
        kept: most MACs that any attack of the board reached, an image each.
        found: MACs that the reference run reached on the same images.
        clean: clean MACs of the same images.
        ceiling: MACs of everything.
    """
    above = np.maximum(np.asarray(found, np.float64) - np.asarray(kept, np.float64), 0)
    below = ceiling - np.asarray(clean, np.float64)
    if not has_reserve(np.asarray(clean), ceiling):
        return UNDEFINED
    return ratio_estimate(above, below, resamples(len(above)))


def held_against_all(
    entries: Iterable[HeadroomEntry], board: StoredBoard, finished: Collection[str]
) -> list[HeadroomEntry]:
    """Those entries that were held against all that their target has now, no more and no less.

    A row that came later may be stronger than all that the reference run was held against, and
    one that was withdrawn is no result of the board.

    Args:
        entries: of the board.
        board: as in the plan.
        finished: keys of its cells that have numbers.
    """
    groups: dict[Who, set[str]] = {}
    for key, cell in board.cells.items():
        if key in finished and not cell.attack.control:
            groups.setdefault(cell.who, set()).add(key)
    return [entry for entry in entries if groups.get(entry.who) == set(entry.sources)]


def read_headroom(folder: RunFolder, number: int, board: StoredBoard) -> list[HeadroomEntry]:
    """The entries of a board; those whose cells were computed again since are left out.

    Args:
        folder: of the run.
        number: of the board in its plan.
        board: as in the plan.

    Raises:
        RunFolderError: headroom.json is damaged.
    """
    path = folder.path / FILE
    if not path.is_file():
        return []
    found = read_document(path, Headroom, called="headroom of a run")
    for entry in found.entries:
        if entry.low is not None and entry.high is not None and entry.low > entry.high:
            raise RunFolderError(
                f"{path} is no headroom of a run: an interval ends before it begins"
            )
        if entry.board == number and entry.images > board.protocol.images:
            raise RunFolderError(
                f"{path} is no headroom of a run: {counted(entry.images, 'image')} of "
                f"{board.protocol.images}"
            )
    if len({(entry.board, entry.who) for entry in found.entries}) != len(found.entries):
        raise RunFolderError(f"{path} is no headroom of a run: a target is there twice")
    return [
        entry
        for entry in found.entries
        if entry.board == number
        and entry.sources
        and all(
            key in board.cells and digest == readable_digest(folder.cell(key))
            for key, digest in entry.sources.items()
        )
    ]
