"""Uniting runs: shares of one plan, or plans of one protocol with other targets or attacks.

Shards are copied byte for byte, with what made them; cells that became whole are sealed, and
ensembles combined, as at the end of a run. No target and no attack is run.
"""

from __future__ import annotations

import bisect
import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.contracts.cell import Cell, Component
from bench.errors import DiskError, NotComparable, RunFolderError
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical
from bench.files.regular import read_regular
from bench.plans.stored import StoredBoard, StoredPlan, read_plan
from bench.runs.ensemble import combine
from bench.runs.run import Outcome
from bench.runs.seal import environment_of, seal
from bench.store.documents import write_json
from bench.store.folder import PLAN, CellFolder, RunFolder
from bench.store.sealed import CELL, FIT, SHARD_NAME, Sealed
from bench.store.shards import Shard
from bench.store.submission import SUBMISSION, WITHDRAWN
from bench.store.target import TARGET
from bench.terminal import counted, printable

Tell = Callable[[str], None]

_KINDS = ("target", "defense", "attack")
_DOCUMENTS = (TARGET, FIT, SUBMISSION, WITHDRAWN)
"""What a cell says beside its rows; without one of them it would say something else."""


def merge(
    sources: Sequence[Path], out: Path, *, keep: bool = False, tell: Tell = lambda line: None
) -> Outcome:
    """Unite runs in one folder.

    Args:
        sources: folders of runs.
        out: the folder of the union; it is made, or holds an earlier merge of the same cells.
        keep: unite shards although they were made in other environments, or by other code.
        tell: hears what is copied.

    Returns:
        What became of the cells. One that is not whole has no status.

    Raises:
        NotComparable: the runs differ in more than targets, defenses and attacks, or in what made
            their shards; the message names the difference.
        RunFolderError: a folder holds no run, a damaged one, or one that somebody works on, or is
            named twice.
    """
    runs = [RunFolder(path) for path in sources]
    _check_named_once(sources)
    with contextlib.ExitStack() as held:
        for run in runs:
            held.enter_context(_held(run))
        plan = united(list(zip(runs, [read_plan(run) for run in runs], strict=True)), out.name)
        if not keep:
            _check_made_alike(runs, plan.cells)
        target = RunFolder(out)
        target.create()
        held.enter_context(target.locked())
        if target.is_planned and set(read_plan(target).cells) - set(plan.cells):
            raise RunFolderError(
                f"{out} holds cells that none of these runs has",
                hint="choose another folder with --out",
            )
        write_json(out / PLAN, plan.document())
        return _fill(target, runs, plan, tell)


def _check_named_once(sources: Sequence[Path]) -> None:
    places: dict[Path, Path] = {}
    for path in sources:
        if (first := places.setdefault(path.resolve(), path)) is not path:
            raise RunFolderError(
                f"{first} and {path} are one run" if first != path else f"{path} is named twice",
                hint="name each run once",
            )


@contextlib.contextmanager
def _held(run: RunFolder) -> Iterator[None]:
    """Hold a run, so that nobody works on it; one on a disk that cannot be written needs none."""
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(DiskError):
            lock.enter_context(run.locked())
        yield


def united(plans: Sequence[tuple[RunFolder, StoredPlan]], name: str) -> StoredPlan:
    """One plan with the cells of all.

    Raises:
        NotComparable: they differ in more than targets, defenses and attacks.
    """
    first_run, first = plans[0]
    pages, commands = dict(first.pages), [first.command]
    boards = list(first.boards)
    for run, plan in plans[1:]:
        between = f"{first_run.path} and {run.path}"
        if len(plan.boards) != len(boards):
            raise NotComparable(
                f"{between} have {len(boards)} and {counted(len(plan.boards), 'board')}"
            )
        boards = [
            _united_board(mine, other, between)
            for mine, other in zip(boards, plan.boards, strict=True)
        ]
        for page, value in plan.pages.items():
            if pages.setdefault(page, value) != value:
                raise NotComparable(f"{between} differ in {page}: {pages[page]!r}, {value!r}")
        commands += [plan.command] if plan.command not in commands else []
    found = StoredPlan(printable(name), first.digest, " && ".join(commands), pages, tuple(boards))
    _check_labels(found)
    same = all(plan.digest == first.digest for _, plan in plans)
    return found if same else replace(found, digest=found.content_digest())


def _united_board(mine: StoredBoard, other: StoredBoard, between: str) -> StoredBoard:
    for what in ("dataset", "subset"):
        if getattr(mine, what) != getattr(other, what):
            raise NotComparable(
                f"{between} differ in their images: {what} {getattr(mine, what)!r}, "
                f"{getattr(other, what)!r}"
            )
    here, there = mine.protocol.document(), other.protocol.document()
    for term in here:
        if here[term] != there[term]:
            raise NotComparable(
                f"{between} differ in protocol.{term}: {here[term]!r}, {there[term]!r}"
            )
    if mine.fit_subset and other.fit_subset and mine.fit_subset != other.fit_subset:
        raise NotComparable(f"{between} differ in the images that are fitted on")
    cells = dict(mine.cells)
    for key, cell in other.cells.items():
        if key not in cells or (cells[key].excluded and not cell.excluded):
            cells[key] = cell
    return replace(mine, cells=cells, fit_subset=mine.fit_subset or other.fit_subset)


def _check_labels(plan: StoredPlan) -> None:
    """Refuse a label that means two things, a thing with two labels, and labels that look alike."""
    for kind in _KINDS:
        things: dict[str, str] = {}
        labels: dict[str, str] = {}
        for cell in plan.cells.values():
            component: Component | None = getattr(cell, kind)
            if component is None:
                continue
            thing, label = canonical(component.identity()).decode(), component.label
            if things.setdefault(label, thing) != thing:
                raise NotComparable(
                    f"two runs call another {kind} {label!r}: {things[label]} and {thing}",
                    hint="give one of them another label in its plan",
                )
            if labels.setdefault(thing, label) != label:
                raise NotComparable(
                    f"one {kind} is called {labels[thing]!r} and {label!r} in two runs",
                    hint="give it one label in both plans",
                )
    for board in plan.boards:
        try:
            board.check_told_apart()
        except ValueError as error:
            raise NotComparable(
                f"these runs do not go on one board: {error}",
                hint="give one of them another label in its plan",
            ) from error


def _check_made_alike(runs: Sequence[RunFolder], cells: Mapping[str, Cell]) -> None:
    """Refuse shards that were made in two environments, or by two versions of a plugin."""
    seen: dict[str, tuple[Any, str]] = {}
    for run in runs:
        for key, cell in cells.items():
            if cell.is_combined:
                continue
            for shard in run.cell(key).shards():
                where = f"{shard.path.name} of {cell.label!r} in {run.path}"
                for name, value in _makers(cell, shard):
                    before, there = seen.setdefault(name, (value, where))
                    if before != value:
                        raise NotComparable(
                            f"made otherwise: {name} was {before!r} for {there}, is {value!r} for "
                            f"{where}",
                            hint="--keep unites them and flags the cells that mix both",
                        )


def _makers(cell: Cell, shard: Shard) -> Iterator[tuple[str, Any]]:
    """What made a shard: (name, value) of each part that other shards may have in common."""
    record: Mapping[str, Any] = environment_of(shard)
    for name, value in record.items():
        if name == "start":  # the images that this attack began at, on this target
            yield f"{name} of {cell.label}", value
            continue
        if name == "learnt":  # by the defense of this target
            yield f"what was learned by {cell.defended}", value
            continue
        if name not in ("sources", "reads"):
            yield name, value
            continue
        for kind, content in value.items():
            component = getattr(cell, kind)
            yield f"{name} of {kind} {component.label if component else ''}", content


def _fill(out: RunFolder, runs: Sequence[RunFolder], plan: StoredPlan, tell: Tell) -> Outcome:
    outcome, ids = Outcome(out.path), None
    for key, cell in plan.cells.items():
        if cell.excluded:
            outcome.statuses[key], outcome.reasons[key] = "skipped", cell.excluded
            continue
        folder = out.cell(key, create=True)
        folder.sweep()
        parts = [run.cell(key) for run in runs if run.cell(key).path.is_dir()]
        if cell.is_combined:
            for part in parts:
                _take(part.path / WITHDRAWN, folder, cell)
            continue
        copied = sum(_copy(part, folder, cell) for part in parts)
        if copied:
            tell(f"{cell.label}: {counted(copied, 'shard')}")
        sealed = _sealed(folder, parts, cell)
        if sealed is None:
            continue
        if sealed.status == "ok":
            here = folder.table(["id"])["id"].to_pylist()
            if ids is not None and here != ids:
                raise NotComparable(f"{cell.label!r} is about other images than other cells")
            ids = here
        _note(outcome, key, sealed)
    for key, cell in plan.cells.items():
        if cell.is_combined and not cell.excluded and _has_members(plan, key, outcome):
            _note(outcome, key, combine(out, key, plan.cells, ids))
    return outcome


def _note(outcome: Outcome, key: str, sealed: Sealed) -> None:
    outcome.statuses[key] = sealed.status
    if sealed.status != "ok":
        outcome.reasons[key] = sealed.reason


def _has_members(plan: StoredPlan, key: str, outcome: Outcome) -> bool:
    """Whether it is known what became of every cell that an ensemble is made of."""
    from bench.results.ensemble import member_keys

    return all(member in outcome.statuses for member in member_keys(plan.cells[key], plan.cells))


def _copy(part: CellFolder, out: CellFolder, cell: Cell) -> int:
    """Copy what `out` does not have of a cell; returns the number of shards.

    Raises:
        NotComparable: both have the same shard with other content, or another file.
        RunFolderError: a sealed shard was altered, or a file cannot be read.
    """
    sealed = part.sealed()
    if sealed is not None and sealed.status == "ok" and (wrong := part.altered(sealed.shards)):
        raise RunFolderError(
            f"{part.path}: {', '.join(wrong)} is not what was sealed",
            hint="run it again where it was made; that computes these shards anew",
        )
    copied = 0
    there = {(shard.first, shard.last): shard for shard in out.shards()}
    taken = sorted(there)
    for shard in part.shards():
        mine = there.get((shard.first, shard.last))
        overlaps = _overlaps(taken, shard)
        if mine is not None:
            _check_same(shard.path, mine.path, cell)
        elif not overlaps:
            write_atomic(out.path / shard.path.name, _content(shard.path))
            bisect.insort(taken, (shard.first, shard.last))
            copied += 1
    for path in sorted(part.path.iterdir()):
        hidden = path.name.startswith(".") or path.suffix == ".lock"
        if not hidden and path.name != CELL and not _is_shard(path):
            _take(path, out, cell)
    return copied


def _take(path: Path, out: CellFolder, cell: Cell) -> None:
    """Copy a file of a cell, where there is one, unless `out` has it.

    Raises:
        NotComparable: `out` has it with other content.
        RunFolderError: it cannot be read, or is a link or no file where a document belongs.
    """
    if path.is_symlink() or not path.is_file():
        if path.name in _DOCUMENTS and os.path.lexists(path):
            raise RunFolderError(f"{path} is no plain file", hint="put the file itself there")
    elif (out.path / path.name).is_file():
        _check_same(path, out.path / path.name, cell)
    else:
        write_atomic(out.path / path.name, _content(path))


def _overlaps(taken: Sequence[tuple[int, int]], shard: Shard) -> bool:
    """Whether images of a shard lie in one of these spans, which are sorted and apart."""
    place = bisect.bisect_left(taken, (shard.last + 1, 0))
    return place > 0 and taken[place - 1][1] >= shard.first


def _is_shard(path: Path) -> bool:
    return SHARD_NAME.fullmatch(path.name) is not None


def _content(path: Path) -> bytes:
    """What a file of a cell holds.

    Raises:
        RunFolderError: it cannot be read, or is too large to be one.
    """
    try:
        return read_regular(path)
    except OSError as error:
        raise RunFolderError(f"{path} cannot be read: {error.strerror or error}") from error


def _check_same(path: Path, other: Path, cell: Cell) -> None:
    if _content(path) != _content(other):
        raise NotComparable(
            f"{cell.label!r}: {path.name} of {path.parents[2]} and what other runs have of it "
            "differ, though it should be the same work",
            hint="'gatebench verify RUN' tells which of them can be made again",
        )


def _sealed(folder: CellFolder, parts: Sequence[CellFolder], cell: Cell) -> Sealed | None:
    """Close a cell that is whole, or that failed somewhere; None where neither is so."""
    ended = [sealed for part in parts if (sealed := part.sealed()) is not None]
    for sealed in ended:
        if sealed.status != "ok":
            return seal(folder, cell, sealed.status, sealed.reason, sealed.detail)
    protocol = cell.protocol
    if not folder.is_described or folder.missing(protocol.images, protocol.batch, protocol.batch):
        return None
    try:
        return seal(folder, cell, "ok")
    except (ValueError, RunFolderError) as error:
        raise NotComparable(f"{cell.label!r} cannot be sealed: {error}") from error
