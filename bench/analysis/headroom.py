"""Headroom: how much a reference run at a multiple of the budget adds to a run's strongest numbers.

For every defended target of a board, the attack that executes most is run again on the first
images of the board with a multiple of the budget. What it adds, image by image, to the strongest
saved image that any cell of the board has is the headroom: recovery that the board's budget left.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from bench.analysis.apart import apart
from bench.analysis.reference_rows import reference_rows
from bench.analysis.same_target import check_rows
from bench.contracts.cell import Who
from bench.errors import RunFolderError
from bench.files.writing import COPY
from bench.plans.stored import read_plan
from bench.results.headroom import (
    FILE,
    IMAGES,
    TIMES,
    Headroom,
    HeadroomEntry,
    gain,
    held_against_all,
    read_headroom,
)
from bench.results.reading import FinishedCell, finished_cells
from bench.results.transfer import sealed_digest
from bench.store.documents import write_json
from bench.store.folder import CellFolder, RunFolder


def measure(
    run: RunFolder,
    *,
    images: int = IMAGES,
    times: int = TIMES,
    device: str = "cpu",
    data_root: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Headroom:
    """Run the references and write headroom.json into the run's folder.

    Args:
        run: its folder.
        images: how many of each board's first images.
        times: the reference's budget, in the board's.
        device: where to evaluate.
        data_root: of the data set.
        tell: hears of each reference run, and of cells that cannot be believed.

    Returns:
        What was written.

    Raises:
        RunFolderError: no attack of the run is finished, or a target, its data or the images that
            an attack went on from are others than the run's.
    """
    boards = finished_cells(run, read_plan(run), tell=tell)
    return _measure(run, boards, images, times, device, data_root, tell)


def measure_planned(
    run: RunFolder,
    *,
    device: str = "cpu",
    data_root: str | None = None,
    deadline: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> Headroom | None:
    """Run the references that a run's plan asks for, unless they are there for all its cells.

    Args:
        run: its folder.
        device: where to evaluate.
        data_root: of the data set.
        deadline: seconds that others' plugins may take for a batch, at the board's own budget; None
            for any.
        tell: hears of each reference run, and of cells that cannot be believed.

    Returns:
        What was written; None where the plan asks for none, nothing can be run again, or all of
        it is there.
    """
    plan = read_plan(run)
    images = plan.pages.get("headroom", 0)
    if not images:
        return None
    boards = finished_cells(run, plan, tell=tell)
    wanted = {
        (number, group[0].cell.who)
        for number, cells in enumerate(boards)
        for group in _groups(cells)
    }
    there = {
        (number, entry.who)
        for number, (board, cells) in enumerate(zip(plan.boards, boards, strict=True))
        for entry in held_against_all(
            read_headroom(run, number, board), board, {one.key for one in cells}
        )
        if entry.images == min(images, board.protocol.images) and entry.times == TIMES
    }
    if wanted <= there:
        return None
    return _measure(run, boards, images, TIMES, device, data_root, tell, deadline)


def _measure(
    run: RunFolder,
    boards: Sequence[Sequence[FinishedCell]],
    images: int,
    times: int,
    device: str,
    data_root: str | None,
    tell: Callable[[str], None],
    deadline: float | None = None,
) -> Headroom:
    """`measure`, of the finished cells of each board."""
    entries: list[HeadroomEntry] = []
    for number, cells in enumerate(boards):
        for group in _groups(cells):
            strongest = max(filter(_is_repeatable, group), key=lambda one: one.macs)
            tell(strongest.cell.label)
            entries.append(
                _entry(number, strongest, group, images, times, device, data_root, deadline)
            )
    if not entries:
        raise RunFolderError(
            f"{run.path} has no finished attack to run again", hint="'gatebench run' fills it"
        )
    found = Headroom(tuple(entries))
    write_json(run.path / FILE, found.document(), elsewhere=COPY)
    return found


def _groups(cells: Sequence[FinishedCell]) -> Iterator[list[FinishedCell]]:
    """The finished attacks on each defended target, where one of them can be run again."""
    groups: dict[Who, list[FinishedCell]] = {}
    for one in cells:
        if not one.cell.attack.control:
            groups.setdefault(one.cell.who, []).append(one)
    for found in groups.values():
        if any(map(_is_repeatable, found)):
            yield found


def _is_repeatable(finished: FinishedCell) -> bool:
    """Whether more budget for each image is more search: neither combined, fitted nor handed in."""
    cell = finished.cell
    return not (cell.attack.members or cell.attack.fits or cell.is_handed_in)


def _entry(
    board: int,
    strongest: FinishedCell,
    group: Sequence[FinishedCell],
    images: int,
    times: int,
    device: str,
    root: str | None,
    deadline: float | None,
) -> HeadroomEntry:
    """The reference run of one defended target, held against its cells."""
    protocol = strongest.cell.protocol
    count, budget = min(images, protocol.images), times * protocol.budget
    terms = replace(protocol, budget=budget, batch=min(count, protocol.batch))
    again = replace(strongest.cell, protocol=terms)
    # A plugin may change the folder that its process works in.
    there = replace(strongest, folder=CellFolder(strongest.folder.path.absolute()))
    limit = None if deadline is None else deadline * times * math.ceil(count / terms.batch)
    rows = apart(again, reference_rows, again, there, count, device, root, deadline=limit)
    check_rows(strongest, rows)
    kept: dict[str, int] = {}
    for finished in group:
        for row in finished.folder.table(["id", "adversarial_macs"]).to_pylist():
            kept[row["id"]] = max(kept.get(row["id"], -1), int(row["adversarial_macs"]))
    best = [kept[row["id"]] for row in rows]
    clean = [int(row["clean_macs"]) for row in rows]
    reference = strongest.folder.target().reference
    added = gain(best, [int(row["adversarial_macs"]) for row in rows], clean, reference)
    reserve = sum(reference - start for start in clean)
    won = sum(most - start for most, start in zip(best, clean, strict=True))
    target, defense = strongest.cell.who
    return HeadroomEntry(
        board=board,
        target=target,
        defense=defense,
        attack=strongest.cell.attack.label,
        images=count,
        times=times,
        budget=budget,
        recovery=None if added.value is None else won / reserve,
        gain=added.value,
        low=added.low,
        high=added.high,
        sources={finished.key: sealed_digest(finished.folder) for finished in group},
    )
