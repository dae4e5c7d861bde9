"""A worker process on two simulated devices: the product's own, under the simulated accelerator."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulated_device import accelerator

from bench.contracts.executor import Event, Task
from bench.executors import worker

DEVICES = 2
TASKS = "devices.txt"
"""Beside the log: a line a task, with the device that computed it."""


def serve(connection: Any, device: str, threads: int, log: str) -> None:
    """As `bench.executors.worker.serve`; tasks begin on the first device once the other has one."""
    perform, note = worker.perform, Path(log).with_name(TASKS)

    def noted(task: Task, device: str, tell: Callable[[Event], None]) -> Event:
        with note.open("a") as file:
            file.write(f"{device} {task.label} {task.first}\n")
        while device == "cuda:0" and "cuda:1 " not in note.read_text():
            time.sleep(0.05)
        return perform(task, device, tell)

    worker.perform = noted
    with accelerator(DEVICES):
        worker.serve(connection, device, threads, log)
