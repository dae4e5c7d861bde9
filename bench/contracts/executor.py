"""What an executor is: it takes tasks and reports events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """One shard to compute.

    Attributes:
        key: of the cell.
        label: of the cell.
        document: the resolved cell.
        folder: of the cell, on disk.
        first: place of the first image.
        last: place of the last image.
        data_root: where the data set lies, or None.
        reads: kind of component -> what making it reads -> digest; for the shard's record.
    """

    key: str
    label: str
    document: Mapping[str, Any]
    folder: str
    first: int
    last: int
    data_root: str | None
    reads: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        return self.last - self.first + 1


@dataclass(frozen=True)
class Event:
    """What happened to a task.

    Attributes:
        what: "started", "progress", "done", "problem" (the cell is over) or "fatal" (the run is).
        task: which. status, reason, detail: of a problem; `detail` is a traceback or empty. share: of the shard, 0 to 1.
        sums: of a finished shard, (clean, adversarial, undefended ceiling) MACs over its images.
        seconds: the shard took.
    """

    what: str
    task: Task
    status: str = ""
    reason: str = ""
    detail: str = ""
    share: float = 0.0
    sums: tuple[int, int, int] = (0, 0, 0)
    seconds: float = 0.0
    error: Exception | None = field(default=None, compare=False)
