"""Which shard a worker computes next: a target is made ready by one worker, as long as there are
others to do."""

from collections import deque
from pathlib import Path

import pytest

from bench.contracts.executor import Event, Task
from bench.executors import local
from bench.executors.local import Local, prepared_of
from bench.plans.resolve import load_plan

PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = 32
batch = 16
threat = { norm = "psnr", floor = 35 }
budget = 8
[[target]]
use = "skipnet"
label = "left"
weights = "random:0"
[[target]]
use = "skipnet"
label = "right"
weights = "random:1"
[[attack]]
use = "identity"
[[attack]]
use = "noise"
"""


class Ended:
    """A worker process that answers every task at once."""

    def __init__(self):
        self.tasks = deque()

    def kill(self):
        pass

    def join(self):
        pass


class Line:
    """The connection to it."""

    def __init__(self, process):
        self.process = process

    def send(self, task):
        self.process.tasks.append(task)

    def recv(self):
        return "event", Event("done", self.process.tasks.popleft(), share=1.0)

    def close(self):
        pass


@pytest.fixture
def tasks(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(PLAN)
    return [
        Task(str(number), cell, Path("cells") / str(number), first, first + 15, None, {})
        for number, cell in enumerate(load_plan(path).cells)
        for first in (0, 16)
    ]


def computed(tasks, workers, monkeypatch):
    """The targets of the tasks that each worker was given, in order."""
    given = {}
    executor = Local(device="cpu", workers=workers, threads=1, deadline=60, log="")
    executor._devices = ["cpu"]

    def spawn(device):
        process = Ended()
        worker = local._Worker(process, Line(process), device, hello={})
        executor._workers.append(worker)
        given[id(worker)] = []
        return worker

    def give(worker, task, tell):
        given[id(worker)].append(task.cell.target.label)
        given_to(worker, task, tell)

    given_to = executor._give
    monkeypatch.setattr(executor, "_spawn", spawn)
    monkeypatch.setattr(executor, "_give", give)
    monkeypatch.setattr(
        local, "wait", lambda lines, timeout: [line for line in lines if line.process.tasks]
    )
    told = []
    executor.run(tasks, told.append)
    assert [event.what for event in told].count("done") == len(tasks)
    return list(given.values())


def test_one_worker_keeps_the_order_of_the_plan(tasks, monkeypatch):
    assert computed(tasks, 1, monkeypatch) == [["left"] * 4 + ["right"] * 4]


def test_two_workers_begin_with_two_targets_and_stay_there(tasks, monkeypatch):
    assert computed(tasks, 2, monkeypatch) == [["left"] * 4, ["right"] * 4]


def test_who_is_done_helps_the_others(tasks, monkeypatch):
    one, two = computed(tasks[:6], 2, monkeypatch)
    assert one[:3] == ["left"] * 3
    assert two[:2] == ["right"] * 2
    assert sorted(one + two) == ["left"] * 4 + ["right"] * 2
    assert two[2:] == ["left"]


def test_a_target_is_told_by_label_defense_and_protocol(tasks):
    assert len({prepared_of(task) for task in tasks}) == 2
