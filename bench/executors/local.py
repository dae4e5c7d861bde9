"""Workers on this machine, one a device; a dead or late worker costs its cell and nothing else."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from bench.contracts.cell import Protocol
from bench.contracts.executor import Event, Task, Tell
from bench.errors import GatebenchError
from bench.executors.loaded import check_loaded, note_loaded
from bench.executors.processes import STARTS, check_started, start
from bench.executors.worker import forget, perform, serve, shorten
from bench.plugins.registry import HOME_DISTRIBUTION

Prepared = tuple[str, str, Protocol]
"""A target and its defense by label, under a protocol: what a worker makes ready once for all
shards that it is given in a row.
"""

KeptFor = str | Prepared
"""What a process is for in which plugins ran that are not gatebench's own (`kept_for`)."""

START_LIMIT = 180.0
"""Seconds a worker may take to import what it needs and say hello."""


@dataclass
class _Worker:
    """A worker process and what it is doing.

    Attributes:
        process: the process.
        connection: to it.
        device: that it was asked to compute on.
        hello: what it said of itself, None until it has started.
        task: what it computes now.
        kept_for: what alone it may still be given, once plugins of other distributions ran in it.
        prepared: the target that it has made ready, None before its first task.
        since: when it started, or was given its task.
    """

    process: Any
    connection: Connection
    device: str
    hello: dict[str, Any] | None = None
    task: Task | None = None
    kept_for: KeptFor | None = None
    prepared: Prepared | None = None
    since: float = field(default_factory=time.monotonic)


class Local:
    """Worker processes: one a GPU; on a CPU one a core, each with `threads` threads.

    The number of cores changes no number. A cell of an attack that is not gatebench's own gets a
    process in which no other such cell was computed, and so does a target with its defense: what
    they keep for the next call, such as results by image, is not of the next cell.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: how many, or "auto".
        threads: of each.
        deadline: seconds a shard may take.
        log: file for what workers print.
    """

    def __init__(
        self, *, device: str, workers: int | str, threads: int, deadline: float, log: str
    ) -> None:
        self.device, self.threads, self.deadline, self.log = device, threads, deadline, log
        self._wanted = workers
        self._workers: list[_Worker] = []
        self._devices: list[str] = []
        self._lost = 0

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.stop()

    def open(self) -> Mapping[str, Any]:
        """Start the first worker and return the environment that it reports.

        Raises:
            GatebenchError: it refused (no such device) or could not start.
        """
        while True:
            first = self._spawn(self.device)
            if self._greet(first):
                break
        assert first.hello is not None
        self._devices = first.hello["devices"]
        environment: dict[str, Any] = first.hello["environment"]
        return environment

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Compute all tasks; `tell` hears of each.

        Raises:
            GatebenchError: the run as a whole cannot go on (a full disk, workers that do not
                start).
        """
        pending: dict[Prepared, deque[Task]] = {}
        over: set[str] = set()
        for task in tasks:
            pending.setdefault(prepared_of(task), deque()).append(task)
        for device in self._places(len(tasks))[len(self._workers) :]:
            self._spawn(device)
        try:
            while pending or any(worker.task for worker in self._workers):
                for worker in list(self._workers):
                    _drop(pending, over)
                    if worker.task is not None or worker.hello is None or not pending:
                        continue
                    queue = pending[self._chosen(worker, pending)]
                    if worker.kept_for in (None, kept_for(queue[0])):
                        self._give(worker, queue.popleft(), tell)
                    else:  # what plugins left in the process must not reach this cell
                        worker.process.kill()
                        self._replace(worker)
                shorten(self.log)
                ready = wait([worker.connection for worker in self._workers], timeout=0.25)
                for worker in list(self._workers):
                    if worker.connection in ready:
                        self._hear(worker, tell, over)
                    if worker not in self._workers:
                        continue  # it died and was replaced
                    if worker.task is not None and time.monotonic() - worker.since > self.deadline:
                        self._late(worker, tell, over)  # however busily it reports progress
                    elif worker.hello is None and time.monotonic() - worker.since > START_LIMIT:
                        raise GatebenchError(
                            f"a worker did not start within {START_LIMIT:.0f} seconds",
                            hint=f"see {self.log}",
                        )
        finally:
            self.stop()

    def stop(self) -> None:
        """End all workers now; a shard in flight is lost, a written one is not."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def _chosen(self, worker: _Worker, pending: Mapping[Prepared, deque[Task]]) -> Prepared:
        """The target whose next shard a worker computes: the one that it has made ready, else one
        that no other worker is at, else the first. Making a target ready takes seconds.
        """
        if worker.prepared is not None and worker.prepared in pending:
            return worker.prepared
        elsewhere = {other.prepared for other in self._workers if other is not worker}
        return next((each for each in pending if each not in elsewhere), next(iter(pending)))

    def _places(self, tasks: int) -> list[str]:
        """The device of each worker."""
        on_cpu = self._devices == ["cpu"]
        count = self._wanted
        if count == "auto":
            count = max(cores() // self.threads, 1) if on_cpu else len(self._devices)
        return [
            self._devices[i % len(self._devices)] for i in range(max(min(int(count), tasks), 1))
        ]

    def _spawn(self, device: str) -> _Worker:
        process, connection = start(serve, device, self.threads, self.log)
        worker = _Worker(process, connection, device)
        self._workers.append(worker)
        return worker

    def _greet(self, worker: _Worker) -> bool:
        """Whether a worker has started; one that was lost on the way is taken off the list."""
        if not worker.connection.poll(START_LIMIT):
            raise GatebenchError(
                f"a worker did not start within {START_LIMIT:.0f} seconds", hint=f"see {self.log}"
            )
        with contextlib.suppress(EOFError, OSError):
            self._answer(worker, worker.connection.recv())
            return True
        self._check_start(worker)
        self._remove(worker)
        return False

    def _check_start(self, worker: _Worker) -> None:
        """Raise where workers end again and again before they have started."""
        worker.process.join(5)
        check_started(worker.process.exitcode)
        self._lost += 1
        if self._lost >= STARTS:
            raise GatebenchError(
                f"a worker ended before it could start ({_death(worker)})",
                hint=f"see {self.log}, and what was printed above: a worker imports the script "
                "that started the run",
            )

    def _answer(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        if kind == "refused":
            raise content
        worker.hello = content

    def _give(self, worker: _Worker, task: Task, tell: Tell) -> None:
        worker.task, worker.since = task, time.monotonic()
        worker.prepared = prepared_of(task)
        worker.kept_for = kept_for(task)
        tell(Event("started", task))
        with contextlib.suppress(
            OSError
        ):  # it died; the next wait finds the closed connection and says how
            worker.connection.send(task)

    def _hear(self, worker: _Worker, tell: Tell, over: set[str]) -> None:
        try:
            kind, content = worker.connection.recv()
        except (EOFError, OSError):
            self._dead(worker, tell, over)
            return
        if kind != "event":
            self._answer(worker, (kind, content))
            return
        if content.what == "fatal":
            raise content.error
        if content.what in ("done", "problem"):
            worker.task = None
        if content.what == "problem":
            over.add(content.task.key)
        tell(content)

    def _dead(self, worker: _Worker, tell: Tell, over: set[str]) -> None:
        task = worker.task
        if worker.hello is None:
            self._check_start(worker)
        self._replace(worker)
        if task is not None:
            over.add(task.key)
            tell(
                Event(
                    "problem",
                    task,
                    "failed",
                    f"the worker process died ({_death(worker)}) while computing {task.label!r}",
                )
            )

    def _late(self, worker: _Worker, tell: Tell, over: set[str]) -> None:
        task = worker.task
        assert task is not None
        worker.process.kill()
        self._replace(worker)
        over.add(task.key)
        reason = (
            f"images {task.first} to {task.last} took longer than the deadline of "
            f"{self.deadline:g} s a shard; raise run.deadline or lower run.shard"
        )
        tell(Event("problem", task, "timeout", reason))

    def _remove(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)

    def _replace(self, worker: _Worker) -> None:
        self._remove(worker)
        self._spawn(worker.device)


def prepared_of(task: Task) -> Prepared:
    """What a worker makes ready for a task."""
    target, defense, _ = task.cell.labels
    return target, defense, task.cell.protocol


def _drop(pending: dict[Prepared, deque[Task]], over: Collection[str]) -> None:
    """Take out the next tasks of cells that are over, and targets that have no tasks left."""
    for each, queue in list(pending.items()):
        while queue and queue[0].key in over:
            queue.popleft()
        if not queue:
            del pending[each]


def foreign_plugins(task: Task) -> frozenset[str]:
    """The plugins of a cell that gatebench does not vouch for."""
    return frozenset(
        part.provider for part in task.cell.parts.values() if part.distribution != HOME_DISTRIBUTION
    )


def kept_for(task: Task) -> KeptFor | None:
    """What else a process may compute after a task.

    Returns:
        The key of its cell, where the attack is not gatebench's own; the target that was made
        ready, where that or its defense is not; None for anything else.
    """
    attack = task.cell.attack
    if attack.distribution != HOME_DISTRIBUTION:
        return task.key
    return prepared_of(task) if foreign_plugins(task) else None


class InProcess:
    """No worker at all: everything in this process, for debuggers.

    Deadlines do not hold, a crash ends the run, and of what a plugin leaves behind in the process
    only that is put back which `ProcessState` puts back.
    """

    def __init__(self, *, device: str, threads: int) -> None:
        self.device, self.threads = device, threads

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *ignored: object) -> None:
        return None

    def open(self) -> Mapping[str, Any]:
        from bench.store.provenance import deterministic, environment, resolve_devices

        forget()
        device = resolve_devices(self.device)[0]
        deterministic(self.threads)
        self.device = str(device)
        return environment(device)

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        from bench.evaluation.process_state import ProcessState

        over: set[str] = set()
        state = ProcessState(self.threads)
        for task in tasks:
            if task.key in over:
                continue
            tell(Event("started", task))
            state.restore()
            check_loaded(task.reads)
            event = perform(task, self.device, tell)
            note_loaded(task.reads)
            if event.what == "fatal" and event.error:
                raise event.error
            if event.what == "problem":
                over.add(task.key)
            tell(event)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code is None:
        worker.process.join(5)
        code = worker.process.exitcode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
