"""Running a plan: find what is missing, have it computed, seal what is whole."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import __version__
from bench.contracts.cell import Cell
from bench.contracts.executor import Event, Executor, MakeExecutor, Task, Tell
from bench.errors import GatebenchError, PluginError, RunFolderError, in_words
from bench.executors.reads import Reads
from bench.plans.estimates import remember
from bench.plugins import registry
from bench.results.ensemble import combinations
from bench.runs.ensemble import combine
from bench.runs.layout import Laid
from bench.runs.log import RunLog, Write
from bench.runs.seal import check_learned_alike, seal
from bench.runs.share import Division, Share
from bench.store.folder import CellFolder, same_record
from bench.store.provenance import source_digest, sources, versions
from bench.store.sealed import CELL, Sealed, Status
from bench.terminal import counted

Span = tuple[int, int]
"""Places of the first and the last image of a shard."""
Prepared = Callable[[Sequence[Task], int], None]
"""Hears, before anything is computed, the shards to compute and how many images are there."""

ATTEMPTS = 2
"""How often shards are computed that are not there although they were reported."""


@dataclass
class Outcome:
    """What became of a run.

    Attributes:
        folder: of the run.
        statuses: of each cell, by key.
        reasons: of the cells that are not ok, by key.
        computed: images.
    """

    folder: Path
    statuses: dict[str, Status] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    computed: int = 0

    @property
    def is_clean(self) -> bool:
        """Whether every cell is ok or skipped."""
        return all(status in ("ok", "skipped") for status in self.statuses.values())

    @property
    def problems(self) -> list[str]:
        """Which cells have no numbers, and why; a line a reason."""
        found = Counter(
            (status, self.reasons.get(key, ""))
            for key, status in self.statuses.items()
            if status not in ("ok", "skipped")
        )
        return [
            f"{status}, {count} of {counted(len(self.statuses), 'cell')}: {reason}"
            for (status, reason), count in found.items()
        ]


class Run:
    """One run of a laid-out plan.

    Args:
        laid: the plan.
        data_root: where the data set lies.
        fresh: throw away what is there.
        keep: go on although shards were made in another environment.
        renew: throw away the cells whose shards were made by other code, libraries or threads, and
            compute those again.
        in_process: no workers, for debuggers.
        share: compute only this share; None for everything.
    """

    def __init__(
        self,
        laid: Laid,
        *,
        data_root: str | None = None,
        fresh: bool = False,
        keep: bool = False,
        renew: bool = False,
        in_process: bool = False,
        share: Share | None = None,
    ) -> None:
        self.laid, self.data_root, self.in_process = laid, data_root, in_process
        self.fresh, self.keep, self.renew = fresh, keep, renew
        self.share = share
        self.outcome = Outcome(laid.folder.path)
        self._cells = {
            key: cell
            for key, cell in laid.cells.items()
            if laid.chosen is None or key in laid.chosen
        }
        self._made_of = combinations(laid.cells)
        self._reopened: set[str] = set()
        """Combined cells of which a member is computed again."""
        self._left: dict[str, set[Span]] = {}
        self._begun: set[str] = set()
        """Cells with shards that an earlier run left, until they are sealed."""
        self._division = None if share is None else self._divided(share)
        self._log = RunLog(laid.folder.path)
        self._speeds: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def __call__(self, prepared: Prepared, listen: Tell) -> Outcome:
        """Run to the end.

        Args:
            prepared: hears what is to be done.
            listen: hears of every event of a cell that is not over yet.

        Raises:
            GatebenchError: the run as a whole cannot go on.
        """
        if self.fresh:
            self.laid.folder.heal()
        self.laid.folder.create()
        with self.laid.folder.locked():
            self.laid.check_folder(fresh=self.fresh, renew=self.renew)
            self.laid.write()
            self._reads = Reads(self._log.path)
            if self.fresh:
                for key in self._cells:
                    self._reopen(key)
                    self._folder(key).clear()
            self._check_sources()
            tasks = self._tasks()
            prepared(tasks, self._images() - sum(task.images for task in tasks))
            self._finish(tasks, listen)
            self._combine()
            remember(self._speeds)
        return self.outcome

    def _divided(self, share: Share) -> Division:
        return Division(dict(self._live()), self.laid.options.shard, share)

    def _images(self) -> int:
        """Images of all cells together, as far as they belong to the share."""
        return sum(
            min(first + step, cell.protocol.images) - first
            for key, cell in self._live()
            for step in [
                max(self.laid.options.shard // cell.protocol.batch, 1) * cell.protocol.batch
            ]
            for first in range(0, cell.protocol.images, step)
            if self._division is None or self._division.has(key, first)
        )

    def _folder(self, key: str) -> CellFolder:
        return self.laid.folder.cell(key)

    def _live(self) -> list[tuple[str, Cell]]:
        """The cells that are computed."""
        return [
            (key, cell)
            for key, cell in self._cells.items()
            if not cell.excluded and not cell.is_combined
        ]

    def _reopen(self, key: str) -> None:
        """What was combined of a cell has no numbers until that is computed again."""
        for combined in self._made_of.get(key, ()):
            folder = self._folder(combined)
            if os.path.lexists(folder.path / CELL):
                self._reopened.add(combined)
                folder.remove([CELL])

    def _tasks(self) -> list[Task]:
        """The shards still to be computed; finished and excluded cells get their status here."""
        tasks: list[Task] = []
        for key, cell in self._cells.items():
            if cell.excluded:
                self.outcome.statuses[key], self.outcome.reasons[key] = "skipped", cell.excluded
        for key, _ in self._live():
            folder = self.laid.folder.cell(key, create=True)
            folder.sweep()
            sealed = _readable(folder)
            if sealed is not None and sealed.status == "ok":
                if not (wrong := folder.altered(sealed.shards)):
                    self.outcome.statuses[key] = "ok"
                    continue
                folder.remove(wrong)
            self._reopen(key)
            if folder.is_described and folder.shards():
                self._begun.add(key)
            else:  # no record says of which code a description or a fit without rows is
                folder.clear()
            tasks += self._missing(key)
        return tasks

    def _missing(self, key: str) -> list[Task]:
        """The tasks that a cell still needs."""
        cell, folder = self._cells[key], self._folder(key)
        protocol = cell.protocol
        missing = folder.missing(protocol.images, self.laid.options.shard, protocol.batch)
        spans = [
            span for span in missing if self._division is None or self._division.has(key, span[0])
        ]
        if missing and not spans:  # the rest of the cell belongs to other shares
            self._left.pop(key, None)
            return []
        self._left[key] = set(spans)
        place = folder.path.absolute()  # a plugin may change the folder that its process works in
        root = self.data_root and os.path.abspath(self.data_root)
        reads = self._reads.of(cell) if spans else {}
        pictures, fitted = self.laid.pictures, self.laid.plan.boards[0].fit_subset
        return [
            Task(key, cell, place, first, last, root, reads, pictures[first : last + 1], fitted)
            for first, last in spans
        ]

    def _finish(self, tasks: Sequence[Task], listen: Tell) -> None:
        """Have the tasks computed and seal every cell, whatever is reported of it."""
        tasks = list(tasks)
        for attempt in range(ATTEMPTS):
            for key in [key for key, left in self._left.items() if not left]:
                tasks += self._seal_whole(key)
            if not tasks:
                return
            self._compute(tasks, listen)
            tasks = [task for key in list(self._left) for task in self._missing(key)]
            if attempt + 1 < ATTEMPTS and tasks:
                labels = ", ".join(dict.fromkeys(task.label for task in tasks))
                self._log.write(f"shards that are not there are computed again: {labels}")
        self._begun.clear()
        for key in list(self._left):
            if self._left[key]:
                first, last = min(self._left[key])
                reason = f"the shard of images {first} to {last} was not there when all were done"
                self._seal(key, "failed", reason)
            else:
                self._seal_whole(key)

    def _combine(self) -> None:
        """Make the cells that are made of other cells; cheap, so always again."""
        if self.share is not None:
            return  # their members lie elsewhere; `merge` combines them
        for key, cell in self.laid.cells.items():
            if cell.is_combined and not cell.excluded and key in {*self._cells, *self._reopened}:
                self._close(key, combine(self.laid.folder, key, self.laid.cells, self.laid.ids))

    def _compute(self, tasks: Sequence[Task], listen: Tell) -> None:
        with self._executor() as executor:
            self._check_environment(executor.open())
            with self._log.opened() as write:

                def tell(event: Event) -> None:
                    if event.task.key in self._left:  # what is over is over
                        listen(event)
                        self._note(event, write)

                executor.run(tasks, tell)

    def _executor(self) -> Executor:
        options = self.laid.options
        if self.in_process:
            from bench.executors.local import InProcess

            return InProcess(device=options.device, threads=options.threads)
        make: MakeExecutor = registry.load("executor", options.executor)
        try:
            return make(
                device=options.device,
                workers=options.workers,
                threads=options.threads,
                deadline=options.deadline,
                log=str(self._log.path),
            )
        except (GatebenchError, OSError):
            raise
        except Exception as error:  # it may be anybody's
            said = f"executor {options.executor!r} cannot be made: {in_words(error)}"
            raise PluginError(said) from error

    def _check_environment(self, environment: Mapping[str, Any]) -> None:
        """Refuse to go on where shards were made otherwise, unless told to keep them."""
        self._compare(lambda cell: environment)

    def _check_sources(self) -> None:
        """The same for what needs no worker to be known, also where nothing is left to compute."""
        known = {
            "gatebench": __version__,
            "versions": versions(),
            "threads": self.laid.options.threads,
        }

        def now(cell: Cell) -> Mapping[str, Any]:
            reads = {} if cell.is_combined else self._reads.of(cell)
            return {**known, "sources": sources(cell), **({"reads": reads} if reads else {})}

        source_digest.cache_clear()
        self._compare(now, renew=self.renew)

    def _compare(self, known: Callable[[Cell], Mapping[str, Any]], *, renew: bool = False) -> None:
        if self.keep:
            return
        for key, cell in self._cells.items():
            folder = self._folder(key)
            shards = folder.shards()
            for name, (then, now) in same_record(shards, known(cell) if shards else {}).items():
                if renew:
                    self._reopen(key)
                    folder.clear()
                    break
                raise RunFolderError(
                    f"{self.laid.folder.path} holds results of {cell.label!r} made otherwise: "
                    f"{_told(name, then, now)}",
                    hint="--fresh computes everything again; "
                    "--keep goes on and flags the cells that mix both",
                )

    def _note(self, event: Event, write: Write) -> None:
        """Write an event down, and close its cell where it is over."""
        task = event.task
        head = f"{task.label} [{task.first}-{task.last}] {event.what}"
        if event.what == "done":
            write(f"{head} {event.seconds:.1f} s")
            left = self._left[task.key]
            if (task.first, task.last) not in left:
                return  # reported twice
            left.discard((task.first, task.last))
            self.outcome.computed += task.images
            work = task.images * task.cell.protocol.budget
            self._speeds[task.cell.target.label].append((event.seconds, work))
            if not left and not self._missing(task.key) and task.key in self._left:
                self._seal_whole(task.key)
        elif event.what == "problem":
            write(f"{head} {event.status} {event.reason}\n{event.detail}")
            self._seal(task.key, event.status, event.reason, event.detail)

    def _seal_whole(self, key: str) -> list[Task]:
        """Seal a cell whose shards are all there; what they hold decides.

        Returns:
            The tasks of a cell with shards of an earlier run that cannot be sealed: all of it is
            computed again, once. [] otherwise.
        """
        try:
            check_learned_alike(self._folder(key))
            self._close(key, seal(self._folder(key), self._cells[key], "ok", ids=self.laid.ids))
            return []
        except (ValueError, RunFolderError) as error:
            said = error.message if isinstance(error, RunFolderError) else str(error)
        self._folder(key).clear()
        if key not in self._begun:
            self._seal(key, "failed", f"what was computed cannot be sealed: {said}")
            return []
        self._begun.discard(key)
        self._log.write(f"{self._cells[key].label} was left damaged and is computed again: {said}")
        return self._missing(key)

    def _seal(self, key: str, status: Status, reason: str, detail: str = "") -> None:
        self._close(key, seal(self._folder(key), self._cells[key], status, reason, detail))

    def _close(self, key: str, sealed: Sealed) -> None:
        """Remember what became of a cell; nothing more is heard of it."""
        self.outcome.statuses[key] = sealed.status
        if sealed.status != "ok":
            self.outcome.reasons[key] = sealed.reason
        self._left.pop(key, None)


def _readable(folder: CellFolder) -> Sealed | None:
    """How a cell ended; a damaged record counts as none, so that the cell is sealed again."""
    try:
        return folder.sealed()
    except RunFolderError:
        return None


def _told(name: str, then: Any, now: Any) -> str:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        part = next(key for key in sorted(set(then) | set(now)) if then.get(key) != now.get(key))
        return _told(f"{name}.{part}", then.get(part), now.get(part))
    return f"{name} was {then!r}, is {now!r}"
