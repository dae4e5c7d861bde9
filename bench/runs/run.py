"""Running a plan: lay out the folder, find what is missing, have it computed, seal what is whole."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import __version__
from bench.contracts.executor import Event, Task
from bench.errors import GatebenchError, RunFolderError
from bench.executors.reads import Reads
from bench.plans.estimates import remember
from bench.plans.plan import entry_label
from bench.plugins import registry
from bench.results.ensemble import is_combined
from bench.runs.ensemble import combine
from bench.runs.layout import Laid
from bench.runs.seal import seal
from bench.store.folder import same_record

Listener = Callable[[Event], None]


@dataclass
class Outcome:
    """What became of a run: its folder, and for each cell its label and status; reasons of those that are not ok."""

    folder: Path
    statuses: dict[str, str] = field(default_factory=dict)
    computed: int = 0

    @property
    def clean(self) -> bool:
        """Whether every cell is ok or skipped."""
        return all(status in ("ok", "skipped") for status in self.statuses.values())


class Run:
    """One run of a laid-out plan.

    Args:
        fresh: throw away what is there. keep: go on although shards were made in another environment. renew: throw away the cells whose
            shards were made by other code, libraries or threads, and compute those again.
        in_process: no workers, for debuggers.
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
    ) -> None:
        self.laid, self.data_root, self.in_process = laid, data_root, in_process
        self.fresh, self.keep, self.renew = fresh, keep, renew
        self.outcome = Outcome(laid.folder.path)
        self._left: dict[str, int] = {}
        self._speeds: dict[str, list[tuple[float, int]]] = defaultdict(list)

    def __call__(
        self, prepared: Callable[[Sequence[Task], int], None], listen: Listener
    ) -> Outcome:
        """Run to the end.

        Args:
            prepared: hears, before anything is computed, the shards to compute and how many images are there already.
            listen: hears of every event.

        Raises:
            GatebenchError: the run as a whole cannot go on.
        """
        with self.laid.folder.locked():
            self._reads = Reads((self.laid.folder.path / "log.txt").absolute())
            if self.fresh:
                for key in self.laid.order:
                    self.laid.folder.cell(key).clear()
            self._check_sources()
            tasks = self._tasks()
            live = [
                entry
                for entry in self.laid.entries.values()
                if not entry["excluded"] and not is_combined(entry)
            ]
            images = sum(entry["protocol"]["images"] for entry in live)
            prepared(tasks, images - sum(task.images for task in tasks))
            for key in self.laid.order:
                if self._left.get(key) == 0:
                    self._seal(key, "ok")
            if tasks:
                self._compute(tasks, listen)
            self._combine()
            remember(self._speeds)
        return self.outcome

    def _tasks(self) -> list[Task]:
        """The shards still to be computed; cells that are finished or excluded get their status here."""
        tasks = []
        for key in self.laid.order:
            entry = self.laid.entries[key]
            if entry["excluded"]:
                self.outcome.statuses[key] = "skipped"
                continue
            if is_combined(entry):
                continue
            folder = self.laid.folder.cell(key, create=True)
            folder.sweep()
            sealed = folder.sealed()
            if sealed is not None and sealed["status"] == "ok" and folder.intact(sealed["shards"]):
                self.outcome.statuses[key] = "ok"
                continue
            protocol = entry["protocol"]
            missing = folder.missing(
                protocol["images"], self.laid.plan.options.shard, protocol["batch"]
            )
            if not missing and not (folder.path / "target.json").is_file():
                folder.clear()
                missing = folder.missing(
                    protocol["images"], self.laid.plan.options.shard, protocol["batch"]
                )
            reads = self._reads.of(entry) if missing else {}
            self._left[key] = len(missing)
            label = entry_label(entry)
            root = self.data_root and os.path.abspath(self.data_root)
            tasks += [
                Task(key, label, entry, str(folder.path.absolute()), first, last, root, reads)
                for first, last in missing
            ]
        return tasks

    def _combine(self) -> None:
        """Make the cells that are made of other cells; cheap, so always anew."""
        named = {entry["attack"]["name"] for entry in self.laid.entries.values()}
        black = [name for name in sorted(named) if _access(name) == "macs"]
        for key in self.laid.order:
            entry = self.laid.entries[key]
            if is_combined(entry) and not entry["excluded"]:
                self.outcome.statuses[key], _ = combine(
                    self.laid.folder, key, entry, self.laid.entries, black
                )

    def _compute(self, tasks: Sequence[Task], listen: Listener) -> None:
        options = self.laid.plan.options
        log = (self.laid.folder.path / "log.txt").absolute()
        if self.in_process:
            from bench.executors.local import InProcess

            executor: Any = InProcess(device=options.device, threads=options.threads)
        else:
            made = registry.load("executor", options.executor)
            executor = made(
                device=options.device,
                workers=options.workers,
                threads=options.threads,
                deadline=options.deadline,
                log=str(log),
            )
        with executor:
            environment = executor.open()
            self._check_environment(environment)
            with open(log, "a", encoding="utf-8") as file:

                def tell(event: Event) -> None:
                    self._note(event, file)
                    listen(event)

                executor.run(tasks, tell)

    def _check_environment(self, environment: Mapping[str, Any]) -> None:
        """Refuse to go on where shards were made otherwise, unless told to keep them."""
        self._compare(lambda entry: dict(environment))

    def _check_sources(self) -> None:
        """The same for what needs no worker to be known: also where nothing is left to compute, a changed plugin is no secret."""
        from bench.store.provenance import source_digest, sources, versions

        known = {
            "gatebench": __version__,
            "versions": versions(),
            "threads": self.laid.plan.options.threads,
        }

        def now(entry: Mapping[str, Any]) -> Mapping[str, Any]:
            reads = {} if is_combined(entry) else self._reads.of(entry)
            return {**known, "sources": sources(entry), **({"reads": reads} if reads else {})}

        source_digest.cache_clear()
        self._compare(now, renew=self.renew)

    def _compare(
        self, known: Callable[[Mapping[str, Any]], Mapping[str, Any]], *, renew: bool = False
    ) -> None:
        if self.keep:
            return
        for key in self.laid.order:
            entry, folder = self.laid.entries[key], self.laid.folder.cell(key)
            shards = folder.shards()
            for name, (then, now) in same_record(shards, known(entry) if shards else {}).items():
                if renew:
                    folder.clear()
                    break
                raise RunFolderError(
                    f"{self.laid.folder.path} holds results of {entry_label(entry)!r} made otherwise: {_told(name, then, now)}",
                    hint="--fresh computes everything again; --keep goes on and flags the cells that mix both",
                )

    def _note(self, event: Event, log: Any) -> None:
        task = event.task
        if event.what == "done":
            self.outcome.computed += task.images
            self._left[task.key] -= 1
            work = task.images * task.document["protocol"]["budget"]
            self._speeds[task.document["target"]["label"]].append((event.seconds, work))
            if self._left[task.key] == 0:
                self._seal(task.key, "ok")
        elif event.what == "problem":
            self._seal(task.key, event.status, event.reason, event.detail)
        if event.what in ("done", "problem"):
            words = (
                f"{event.status} {event.reason}\n{event.detail}"
                if event.what == "problem"
                else f"{event.seconds:.1f} s"
            )
            print(
                f"{time.strftime('%H:%M:%S')} {task.label} [{task.first}-{task.last}] {event.what} {words}".rstrip(),
                file=log,
                flush=True,
            )

    def _seal(self, key: str, status: str, reason: str = "", detail: str = "") -> None:
        entry = self.laid.entries[key]
        inputs = {name: value for name, value in entry.items() if name != "key"}
        seal(self.laid.folder.cell(key), inputs, status, reason, detail)
        self.outcome.statuses[key] = status


def _told(name: str, then: Any, now: Any) -> str:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        part = next(key for key in sorted(set(then) | set(now)) if then.get(key) != now.get(key))
        return _told(f"{name}.{part}", then.get(part), now.get(part))
    return f"{name} was {then!r}, is {now!r}"


def _access(attack: str) -> str:
    """What an attack sees, without importing it; "" where that cannot be told."""
    try:
        return str(registry.find("attack", attack).facts().constants.get("access", "gates"))
    except GatebenchError:
        return ""
