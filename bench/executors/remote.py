"""What runs on the node of a cluster: shards computed in a folder of their own, their bytes handed
back. Nothing here knows which cluster it is.
"""

from __future__ import annotations

import contextlib
import os
import queue
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.contracts.executor import Event, Task
from bench.errors import GatebenchError
from bench.files.regular import read_regular
from bench.store.folder import CellFolder
from bench.store.saved import cell_of_key

if TYPE_CHECKING:
    from bench.evaluation.process_state import ProcessState

Files = Mapping[str, bytes]
"""Name -> content of files of a cell's folder."""


@dataclass(frozen=True)
class Streamed:
    """One thing that a node reports.

    Attributes:
        node: which.
        event: of the shard at hand, without its task.
        files: of a finished shard, for the cell's folder.
        environment: of the node, where it is another than the run's; nothing was computed then.
    """

    node: str
    event: Event | None = None
    files: Files = field(default_factory=dict)
    environment: Mapping[str, Any] | None = None


def hello(device: str, threads: int) -> Mapping[str, Any] | GatebenchError:
    """The environment of the process that runs it: versions, device class, threads."""
    from bench.store.provenance import deterministic, environment, resolve_devices

    try:
        chosen = resolve_devices(device)[0]
    except GatebenchError as error:
        return error
    deterministic(threads)
    return environment(chosen)


def compute(
    tasks: Sequence[Task],
    device: str,
    threads: int,
    environment: Mapping[str, Any],
    files: Mapping[str, Files],
    pause: float = 0.0,
) -> Iterator[Streamed]:
    """Compute shards of one cell one after another.

    Args:
        tasks: their folders are replaced by one of this process.
        device: where to evaluate.
        threads: that torch computes with.
        environment: that the run's shards are made in.
        files: key of a cell -> what is there of it already and is needed: what an attack learned,
            the images that it begins at.
        pause: seconds between two reports of progress at least.

    Yields:
        Of each shard "started", "progress" and one "done" or "problem" or "fatal"; the last shard
        may end early.
    """
    node = _node()
    found = hello(device, threads)
    if isinstance(found, GatebenchError):
        yield Streamed(node, Event("fatal", tasks[0], "failed", found.message, error=found))
        return
    if found != environment:
        yield Streamed(node, environment=found)
        return
    with tempfile.TemporaryDirectory(prefix="gatebench-") as place:
        cells = Path(place) / "runs" / "run" / "cells"
        for key, there in files.items():
            (cells / key).mkdir(parents=True, exist_ok=True)
            for name, data in there.items():
                (cells / key / name).write_bytes(data)
        for task in tasks:
            folder = cells / task.key
            folder.mkdir(parents=True, exist_ok=True)
            before = set(os.listdir(folder))
            yield Streamed(node, Event("started", task))
            told = time.monotonic()
            for event in _performed(replace(task, folder=folder), device, threads):
                if event.what == "progress" and time.monotonic() - told < pause:
                    continue
                told = time.monotonic()
                made: Files = {}
                if event.what == "done":
                    names = sorted(set(os.listdir(folder)) - before)
                    made = {
                        name: (folder / name).read_bytes()
                        for name in names
                        if not name.startswith(".") and not name.endswith(".lock")
                    }
                yield Streamed(node, event, made)
                if event.what in ("problem", "fatal"):
                    return


def files_for(task: Task) -> dict[str, dict[str, bytes]]:
    """What a node needs to have of the run's folder to compute shards of a cell."""
    folder = CellFolder(task.folder)
    found = {task.key: _content(folder, lambda name: name.startswith(("fit.", "target.")))}
    key = task.cell.attack.params.get("start")
    if isinstance(key, str) and key and (other := cell_of_key(folder, key)) is not None:
        found[other.key] = _content(other, lambda name: not name.startswith("."))
    return found


def _content(folder: CellFolder, wanted: Any) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    if folder.path.is_dir():
        for path in sorted(folder.path.iterdir()):
            if wanted(path.name) and path.suffix != ".lock":
                with contextlib.suppress(OSError):  # for whoever reads it, it is not there
                    found[path.name] = read_regular(path)
    return found


_STATE: dict[int, ProcessState] = {}
"""Threads -> the state that this process had before any cell was computed in it."""


def _performed(task: Task, device: str, threads: int) -> Iterator[Event]:
    """The events of one shard as they come, the last one last; it is computed in a thread, so that
    they can be handed on meanwhile."""
    from bench.evaluation.process_state import ProcessState
    from bench.executors.worker import perform

    state = _STATE.setdefault(threads, ProcessState(threads))
    events: queue.SimpleQueue[Event | BaseException] = queue.SimpleQueue()

    def work() -> None:
        try:
            state.restore()
            events.put(perform(task, device, events.put))
        except BaseException as error:
            events.put(error)

    thread = threading.Thread(target=work, name="shard", daemon=True)
    thread.start()
    while True:
        event = events.get()
        if isinstance(event, BaseException):
            raise event
        yield event
        if event.what in ("done", "problem", "fatal"):
            thread.join()
            return


def _node() -> str:
    """The id of the node of a Ray cluster that this process is on; "" elsewhere."""
    try:
        import ray
    except ImportError:
        return ""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else ""
