"""Shards on a Ray cluster: one task for a few shards of a cell, and bytes back.

The driver holds the run's folder and is the only one that writes there. A task is handed the
resolved cell and the places of its shards, computes them in a folder of its own, and streams back
what happens and the bytes of each shard as it is done. So nodes need no common disk: they need
gatebench, the plugins, the data set and the weights. What a node loses is computed again, wherever
there is room; what was streamed back is kept.

Facts of Ray that this rests on: tasks are retried three times unless `max_retries=0`, and after an
out-of-memory kill for ever; a running task can be ended by `cancel(force=True)`, an actor's method
cannot; resources are only counted, so the device is passed by name; `uv run` is handed on to
workers unless that is switched off.
"""

from __future__ import annotations

import importlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.contracts.executor import Event, Task, Tell
from bench.errors import GatebenchError, PlanError
from bench.executors.local import foreign_plugins
from bench.executors.remote import Files, Streamed, compute, files_for, hello
from bench.files.atomic import write_atomic
from bench.store.target import TARGET

SHARDS_A_TASK = 8
"""Shards of one cell that a task computes: a new process imports torch first."""
START_LIMIT = 180.0
"""Seconds that a cluster may take until a node has room for a task."""
LOSSES = 3
"""How often the worker of one shard may die before its cell fails; nodes that are lost do not
count."""
EVENTS = 100
"""Reports of progress a second that all workers together send at most."""
PROGRESS = 0.2
"""Seconds between two reports of one worker at least."""
_PATIENCE = 0.25
NODE_CHECK = 30.0
"""Seconds that a lost node may take to be reported as such."""


@dataclass
class _Group:
    """A task of Ray: some shards of one cell.

    Attributes:
        key: of the cell.
        tasks: that are still to be computed, in order.
        stream: of what happens, None until it is submitted.
        running: the shard that is computed now.
        since: when it began, or when the group was submitted.
        node: where it runs.
    """

    key: str
    tasks: deque[Task]
    stream: Any = None
    running: Task | None = None
    since: float = field(default_factory=time.monotonic)
    node: str = ""


class Ray:
    """Tasks on a Ray cluster.

    It joins the cluster that the environment names (`RAY_ADDRESS`, or one that the process is
    connected to already), else it starts Ray on this machine. No code and no environment is shipped
    to the nodes.

    Args:
        device: "auto" is a GPU a task where the cluster has some, else the CPU; "cpu", "cuda".
        workers: tasks at a time at most, or "auto": as many as there is room for.
        threads: of each; so many CPUs does a task ask for.
        deadline: seconds a shard may take.
        log: unused: what plugins print is in the logs of Ray's workers.
    """

    def __init__(
        self, *, device: str, workers: int | str, threads: int, deadline: float, log: str
    ) -> None:
        self.device, self.workers, self.threads, self.deadline = device, workers, threads, deadline
        self._ray: Any = None
        self._started = False
        self.environment: Mapping[str, Any] = {}

    def __enter__(self) -> Ray:
        return self

    def __exit__(self, *error: object) -> None:
        if self._started:
            self._ray.shutdown()

    def open(self) -> Mapping[str, Any]:
        """Join the cluster and ask one of its nodes for its environment.

        Raises:
            PlanError: Ray is not installed, or no node has the device.
            GatebenchError: no node had room in time.
        """
        try:
            ray: Any = importlib.import_module("ray")
        except ImportError as error:
            raise PlanError(
                'run.executor: "ray" needs Ray', hint="pip install 'gatebench[ray]'"
            ) from error
        self._ray = ray
        if not ray.is_initialized():
            os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
            self._started = True
        has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
        if self.device == "auto":
            self.device = "cuda" if has_gpus else "cpu"
        if self.device.partition(":")[0] not in ("cpu", "cuda") or ":" in self.device:
            raise PlanError(f'run.device: "ray" takes "auto", "cpu" or "cuda", not {self.device!r}')
        if self.device == "cuda" and not has_gpus:
            raise PlanError("run.device: no node of the cluster has a GPU")
        asked = self._remote(hello, streaming=False).remote(self.device, self.threads)
        ready, _ = ray.wait([asked], timeout=START_LIMIT)
        if not ready:
            ray.cancel(asked, force=True)
            raise self.no_room()
        found = ray.get(asked)
        if isinstance(found, GatebenchError):
            raise found
        self.environment = found
        return self.environment

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Compute all tasks; `tell` hears of each.

        Raises:
            GatebenchError: a node is of another device class or has other versions, no node has
                room, or the disk here refused a write.
        """
        _Course(self._ray, self, tell, _grouped(tasks)).run()

    def submit(self, group: _Group) -> None:
        """Hand a group to the cluster."""
        first = group.tasks[0]
        fresh = bool(foreign_plugins(first))
        group.running, group.node, group.since = None, "", time.monotonic()
        group.stream = self._remote(compute, streaming=True, fresh=fresh).remote(
            tuple(replace(task, folder=Path(task.key)) for task in group.tasks),
            self.device,
            self.threads,
            dict(self.environment),
            files_for(first),
            max(PROGRESS, self.room() / EVENTS),
        )

    def room(self) -> int:
        """Groups that may be with the cluster at a time; twice what it can compute, so that no node
        waits for the driver."""
        if self.workers != "auto":
            return int(self.workers)
        there = self._ray.cluster_resources()
        kind, each = ("GPU", 1) if self.device == "cuda" else ("CPU", self.threads)
        return max(2 * int(there.get(kind, 0) // each), 1)

    def is_lost(self, node: str) -> bool:
        """Whether a node is gone; one that was lost a moment ago may not be known to be."""
        return all(found["NodeID"] != node or not found["Alive"] for found in self._ray.nodes())

    def _remote(self, function: Callable[..., Any], *, streaming: bool, fresh: bool = False) -> Any:
        options: dict[str, Any] = {
            "max_retries": 0,
            "num_cpus": self.threads,
            "num_gpus": 1 if self.device == "cuda" else 0,
        }
        if streaming:
            options["num_returns"] = "streaming"
        if fresh:  # what a foreign plugin leaves in the process must reach no other cell
            options["max_calls"] = 1
        return self._ray.remote(**options)(function)

    def no_room(self, error: str = "") -> GatebenchError:
        """What to say where no node computes anything."""
        gpu = " and one GPU" if self.device == "cuda" else ""
        return GatebenchError(
            f"no node of the Ray cluster took a task within {START_LIMIT:.0f} seconds; a task asks "
            f"for {self.threads} CPUs{gpu}",
            hint=error.strip().partition("\n")[0] or "'ray status' shows what the nodes have",
        )


class _Course:
    """The course of one `run`.

    Attributes:
        queue: groups that are not with the cluster.
        flying: groups that are.
        over: keys of cells that ended.
        losses: (key, first image) -> how often its worker died.
        doubtful: groups that were lost, and when, while it is not known whether their node was.
        last_error: what was said of the last loss.
    """

    def __init__(self, ray: Any, cluster: Ray, tell: Tell, groups: Sequence[_Group]) -> None:
        self.ray, self.cluster, self.tell = ray, cluster, tell
        self.queue, self.flying = deque(groups), list[_Group]()
        self.over: set[str] = set()
        self.losses: Counter[tuple[str, int]] = Counter()
        self.doubtful: list[tuple[_Group, float]] = []
        self.last_error = ""
        self.quiet_since = time.monotonic()

    def run(self) -> None:
        """To the end."""
        try:
            while self.queue or self.flying or self.doubtful:
                self._check_doubtful()
                self._fill()
                if not self.flying:
                    time.sleep(_PATIENCE if self.doubtful else 0)
                    continue
                streams = {group.stream: group for group in self.flying}
                ready, _ = self.ray.wait(list(streams), num_returns=1, timeout=_PATIENCE)
                if ready:  # and whatever else is there by now
                    ready, _ = self.ray.wait(list(streams), num_returns=len(streams), timeout=0)
                for stream in ready:
                    self._hear(streams[stream])
                self._check_times()
        finally:
            for group in self.flying:
                self._cancel(group)

    def _fill(self) -> None:
        """Hand groups over while there is room."""
        room = self.cluster.room() if self.queue else 0
        while self.queue and len(self.flying) < room:
            group = self.queue.popleft()
            if group.key not in self.over:
                self.cluster.submit(group)
                self.flying.append(group)

    def _hear(self, group: _Group) -> None:
        """One thing that a group streamed back, or its end."""
        try:
            said: Streamed = self.ray.get(next(group.stream))
        except StopIteration:
            self.flying.remove(group)
            if group.tasks and group.key not in self.over:  # it ended too early
                self._lost(group, "its task ended")
            return
        except self.ray.exceptions.RayError as error:
            self.flying.remove(group)
            if group.tasks and group.key not in self.over:  # else all it was to do is here
                self._lost(group, error)
            return
        self.quiet_since = time.monotonic()
        group.node = said.node
        if said.environment is not None:
            raise GatebenchError(
                f"node {said.node[:12]} of the cluster computes otherwise than the first: "
                f"{_difference(self.cluster.environment, said.environment)}",
                hint="shards of two device classes are no one board; let Ray use nodes of one kind",
            )
        if said.event is None or group.key in self.over or not group.tasks:
            return
        task = group.tasks[0]
        event = replace(said.event, task=task)
        if event.what == "fatal":
            assert event.error is not None
            raise event.error
        if event.what == "started":
            group.running, group.since = task, time.monotonic()
        elif event.what == "done":
            _write(task, said.files)
            group.tasks.popleft()
            group.running = None
        elif event.what == "problem":
            self.over.add(task.key)
        self.tell(event)

    def _lost(self, group: _Group, error: Exception | str) -> None:
        """A group's worker or node is gone: its other shards are computed again, elsewhere.

        It takes the cluster a while to know that a node is lost; until then nobody is blamed.
        """
        self.last_error = str(error)
        if isinstance(error, self.ray.exceptions.OutOfMemoryError):
            self._blame(group, str(error), memory=True)
        elif isinstance(error, self.ray.exceptions.NodeDiedError) or not group.node:
            self.queue.appendleft(_Group(group.key, group.tasks))
        else:
            self.doubtful.append((group, time.monotonic()))

    def _check_doubtful(self) -> None:
        """Whose fault a loss was: the node's, or that of what it computed."""
        for group, since in list(self.doubtful):
            if self.cluster.is_lost(group.node):
                self.queue.appendleft(_Group(group.key, group.tasks))
            elif time.monotonic() - since > NODE_CHECK:
                self._blame(group, self.last_error)
            else:
                continue
            self.doubtful.remove((group, since))

    def _blame(self, group: _Group, error: str, *, memory: bool = False) -> None:
        """Count a loss against the shard at hand; its cell fails after `LOSSES` of them."""
        task = group.running or group.tasks[0]
        self.losses[task.key, task.first] += 1
        if self.losses[task.key, task.first] < LOSSES:
            self.queue.appendleft(_Group(group.key, group.tasks))
            return
        if task.key in self.over:
            return
        self.over.add(task.key)
        said = (
            f"the node ran out of memory {LOSSES} times while computing {task.label!r}; raise "
            "run.threads, so that fewer tasks share a node"
            if memory
            else f"the worker process died {LOSSES} times while computing {task.label!r}"
        )
        self.tell(Event("problem", task, "oom" if memory else "failed", said, error))

    def _check_times(self) -> None:
        """End what is late, and say when no node takes anything."""
        now = time.monotonic()
        for group in list(self.flying):
            task = group.running
            if group.key in self.over:  # another group of the cell had a problem
                self._cancel(group)
                self.flying.remove(group)
            elif task is not None and now - group.since > self.cluster.deadline:
                self._cancel(group)
                self.flying.remove(group)
                self.over.add(task.key)
                reason = (
                    f"images {task.first} to {task.last} took longer than the deadline of "
                    f"{self.cluster.deadline:g} s a shard; raise run.deadline or lower run.shard"
                )
                self.tell(Event("problem", task, "timeout", reason))
        if any(group.running for group in self.flying):
            self.quiet_since = now
        elif self.flying and now - self.quiet_since > START_LIMIT:
            raise self.cluster.no_room(self.last_error)

    def _cancel(self, group: _Group) -> None:
        self.ray.cancel(group.stream, force=True)


def _grouped(tasks: Sequence[Task]) -> list[_Group]:
    """Up to `SHARDS_A_TASK` shards of one cell each, in order."""
    found: list[_Group] = []
    for task in tasks:
        if not found or found[-1].key != task.key or len(found[-1].tasks) >= SHARDS_A_TASK:
            found.append(_Group(task.key, deque()))
        found[-1].tasks.append(task)
    return found


def _write(task: Task, files: Files) -> None:
    """What a shard's computation left, into the cell's folder; the shard itself comes last."""
    task.folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: (name.startswith("shard-"), name)):
        place = task.folder / name
        if name != TARGET or not place.is_file():
            write_atomic(place, files[name])


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    return next(_differences("", then, now), "nothing")


def _differences(path: str, then: Any, now: Any) -> Iterator[str]:
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for name in sorted({*then, *now}):
            where = f"{path}.{name}" if path else name
            yield from _differences(where, then.get(name), now.get(name))
    elif then != now:
        yield f"{path} was {then!r}, is {now!r}"
