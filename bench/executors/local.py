"""Workers on this machine: spawned processes, one a device; a dead or late worker costs its cell and nothing else."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from bench.contracts.executor import Event, Task
from bench.errors import GatebenchError
from bench.executors.worker import perform, serve

START_LIMIT = 180.0
"""Seconds a worker may take to import what it needs and say hello."""

Tell = Callable[[Event], None]


@dataclass
class _Worker:
    """A worker process and what it is doing."""

    process: Any
    connection: Connection
    device: str
    hello: dict[str, Any] | None = None
    task: Task | None = None
    since: float = field(default_factory=time.monotonic)


class Local:
    """Spawned workers: one a GPU; on a CPU one a core, each with `threads` threads, so that the number of cores changes no number.

    Args:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        workers: how many, or "auto". threads: of each. deadline: seconds a shard may take. log: file for what workers print.
    """

    def __init__(
        self, *, device: str, workers: int | str, threads: int, deadline: float, log: str
    ) -> None:
        self.device, self.threads, self.deadline, self.log = device, threads, deadline, log
        self._wanted = workers
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._devices: list[str] = []

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *ignored: object) -> None:
        self.stop()

    def open(self) -> dict[str, Any]:
        """Start the first worker and return the environment that it reports.

        Raises:
            GatebenchError: it refused (no such device) or could not start.
        """
        first = self._spawn(self.device)
        self._greet(first)
        assert first.hello is not None
        self._devices = first.hello["devices"]
        environment: dict[str, Any] = first.hello["environment"]
        return environment

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Compute all tasks; `tell` hears of each.

        Raises:
            GatebenchError: the run as a whole cannot go on (a full disk, workers that cannot start).
        """
        queue = list(tasks)
        over: set[str] = set()
        for device in self._places(len(queue))[len(self._workers) :]:
            self._spawn(device)
        try:
            while queue or any(worker.task for worker in self._workers):
                queue = [task for task in queue if task.key not in over]
                for worker in self._workers:
                    if worker.task is None and worker.hello is not None and queue:
                        self._give(worker, queue.pop(0), tell)
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
        here, there = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(there, device, self.threads, self.log), daemon=True
        )
        with _deaf_to_ctrl_c():
            process.start()
        there.close()
        worker = _Worker(process, here, device)
        self._workers.append(worker)
        return worker

    def _greet(self, worker: _Worker) -> None:
        if not worker.connection.poll(START_LIMIT):
            raise GatebenchError(
                f"a worker did not start within {START_LIMIT:.0f} seconds", hint=f"see {self.log}"
            )
        try:
            self._answer(worker, worker.connection.recv())
        except (EOFError, OSError) as error:
            raise GatebenchError(
                f"a worker ended before it could start ({_death(worker)})", hint=f"see {self.log}"
            ) from error

    def _answer(self, worker: _Worker, message: tuple[str, Any]) -> None:
        kind, content = message
        if kind == "refused":
            raise content
        worker.hello = content

    def _give(self, worker: _Worker, task: Task, tell: Tell) -> None:
        worker.task, worker.since = task, time.monotonic()
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
        if task is None and worker.hello is None:
            raise GatebenchError(
                f"a worker ended before it could start ({_death(worker)})", hint=f"see {self.log}"
            )
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
        reason = f"images {task.first} to {task.last} took longer than the deadline of {self.deadline:g} s a shard"
        tell(Event("problem", task, "timeout", f"{reason}; raise run.deadline or lower run.shard"))

    def _replace(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self._workers.remove(worker)
        self._spawn(worker.device)


class InProcess:
    """No worker at all: everything in this process, for debuggers; deadlines do not hold and a crash ends the run."""

    def __init__(self, *, device: str, threads: int) -> None:
        self.device, self.threads = device, threads

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *ignored: object) -> None:
        return None

    def open(self) -> dict[str, Any]:
        from bench.store.provenance import deterministic, environment, resolve_devices

        device = resolve_devices(self.device)[0]
        deterministic(self.threads)
        self.device = str(device)
        return environment(device)

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        over: set[str] = set()
        for task in tasks:
            if task.key in over:
                continue
            tell(Event("started", task))
            event = perform(task, self.device, tell)
            if event.what == "fatal" and event.error:
                raise event.error
            if event.what == "problem":
                over.add(task.key)
            tell(event)


@contextlib.contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Processes started meanwhile never see a Ctrl-C, not even while they import; ours is delivered afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _death(worker: _Worker) -> str:
    code = worker.process.exitcode
    if code is None:
        worker.process.join(5)
        code = worker.process.exitcode
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
