"""What an executor is: it takes tasks, has them computed, and reports events."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from bench.contracts.cell import Cell

What = Literal["started", "progress", "done", "problem", "fatal"]
Status = Literal["ok", "skipped", "invalid", "failed", "timeout", "oom"]


@dataclass(frozen=True)
class Task:
    """One shard to compute.

    Attributes:
        key: of the cell.
        cell: the resolved cell.
        folder: of the cell, on disk.
        first: place of the first image.
        last: place of the last image.
        data_root: where the data set lies, or None.
        reads: kind of component -> what making it reads -> digest; for the shard's record.
        pictures: digests of the images (`bench.datasets.base.image_digest`), in order; () where
            nobody compares.
        fit_subset: digest of the images that are learned from; "" where nobody compares.
    """

    key: str
    cell: Cell
    folder: Path
    first: int
    last: int
    data_root: str | None
    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    pictures: tuple[str, ...] = ()
    fit_subset: str = ""

    @property
    def images(self) -> int:
        """How many images it is about."""
        return self.last - self.first + 1

    @property
    def label(self) -> str:
        """What its cell is called."""
        return self.cell.label


@dataclass(frozen=True)
class Event:
    """What happened to a task.

    Attributes:
        what: "started", "progress", "done", "problem" (the cell is over) or "fatal" (the run is).
        task: which.
        status: of a problem; what the cell becomes.
        reason: of a problem, in words.
        detail: of a problem: a traceback, or empty.
        share: of the shard, 0 to 1.
        sums: of a finished shard: clean, adversarial and undefended-ceiling MACs over its images.
        seconds: that the shard took.
        error: of a fatal event: what ends the run.
    """

    what: What
    task: Task
    status: Status = "ok"
    reason: str = ""
    detail: str = ""
    share: float = 0.0
    sums: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0.0
    error: Exception | None = field(default=None, compare=False)


Tell = Callable[[Event], None]
"""Who hears of events."""


class Executor(Protocol):
    """Computes the shards of a run; one object a run, used as a context manager.

    A class named in the entry-point group `gatebench.executors` is made as `MakeExecutor` says.
    Every worker computes its shard with
    `bench.executors.worker.perform`, which writes the shard into the task's folder and returns the
    last event of the task.
    """

    def __enter__(self) -> Executor:
        """Begin; nothing is started yet."""

    def __exit__(self, *error: object) -> None:
        """End all workers, whatever they are doing; what is written stays."""

    def open(self) -> Mapping[str, Any]:
        """Start what is needed for one task.

        Returns:
            The environment of its shards: versions, device class and threads
            (`bench.store.provenance.environment`).

        Raises:
            GatebenchError: it cannot start, for example for want of the device.
        """

    def run(self, tasks: Sequence[Task], tell: Tell) -> None:
        """Compute all tasks, in any order.

        `tell` hears, in the caller's process and thread, "started" and "progress" of a task as they
        come and exactly one "done" or "problem". After a "problem" the other tasks of its cell need
        not be computed, and what is still heard of them is of no account.

        Raises:
            GatebenchError: the run as a whole cannot go on.
        """


class MakeExecutor(Protocol):
    """How an executor is made."""

    def __call__(
        self, *, device: str, workers: int | str, threads: int, deadline: float, log: str
    ) -> Executor:
        """Make it.

        Args:
            device: "auto", "cpu", "cuda", "cuda:1", "mps".
            workers: how many, or "auto".
            threads: of each worker.
            deadline: seconds that a shard may take.
            log: file for what workers print.
        """
