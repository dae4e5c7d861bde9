"""Ray: a cluster of node processes on this machine gives the bytes of a run without it, whatever
dies meanwhile."""

import json
import subprocess
import sys
from collections import deque
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import ray_cluster

from bench.contracts.executor import Event
from bench.errors import GatebenchError, PlanError
from bench.executors import on_ray, remote
from bench.executors.on_ray import SHARDS_A_TASK, Ray, _Course, _grouped, _write

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 24
batch = 2
threat = { norm = "linf", eps = "8/255" }
budget = 9
[run]
device = "cpu"
shard = 2
executor = "ray"
[[target]]
use = "toy"
weights = "random:0"
[[attack]]
use = "still"
[[attack]]
use = "wander"
[attack.sweep]
step = [0.01, 0.02, 0.03]
"""


def content(run):
    return {
        path.relative_to(run): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name not in ("log.txt", "lock") and path.suffix != ".lock"
    }


def local(plan, folder, environment):
    """The same plan without Ray."""
    (folder / "local.toml").write_text(plan.replace('executor = "ray"', 'executor = "local"'))
    arguments = ["run", "local.toml", "--name", "local", "--no-report", "--in-process"]
    subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=folder, env=environment, check=True
    )
    return folder / "runs" / "local"


def same(one, other):
    """Whether two runs hold the same but for their names."""
    (first, second) = content(one), content(other)
    assert first.keys() == second.keys()
    for path in first:
        if path.parts[0] == "cells":
            assert first[path] == second[path], path
    return True


@needs_ray
@pytest.mark.slow  # starts a cluster
@pytest.mark.parametrize("kills", [0, 3], ids=["no-kill", "three-kills"])
def test_a_cluster_gives_the_same_bytes_though_nodes_are_killed(tmp_path, child_environment, kills):
    environment = child_environment()
    (tmp_path / "plan.toml").write_text(PLAN)
    done = subprocess.run(
        [sys.executable, ray_cluster.__file__, "plan.toml", "3", str(kills), "0"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == 0, (tmp_path / "run.out").read_text()
    assert told["kills"] == kills
    assert same(tmp_path / "runs" / "ray", local(PLAN, tmp_path, environment))


def test_without_ray_the_plan_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    executor = Ray(device="cpu", workers="auto", threads=1, deadline=60, log="")
    with pytest.raises(PlanError, match='"ray" needs Ray'):
        executor.open()


@pytest.fixture
def tasks(gatebench, tmp_path):
    """The tasks of a plan of two cells of twelve shards each."""
    from bench.plans.resolve import load_plan
    from bench.runs.layout import lay_out
    from bench.runs.run import Run

    text = PLAN.replace("step = [0.01, 0.02, 0.03]", "step = [0.01]")
    (tmp_path / "plan.toml").write_text(text)
    laid = lay_out(load_plan("plan.toml"), Path("runs"), "r", "", None)
    found = []
    run = Run(laid)
    run._reads = type("Nothing", (), {"of": staticmethod(lambda cell: {})})()
    laid.folder.create()
    for key in laid.cells:
        laid.folder.cell(key, create=True)
        found += run._missing(key)
    return found


def test_groups_are_of_one_cell_each_and_bounded(tasks):
    groups = _grouped(tasks)
    assert [task for group in groups for task in group.tasks] == tasks
    assert all(len({task.key for task in group.tasks}) == 1 for group in groups)
    assert max(len(group.tasks) for group in groups) == SHARDS_A_TASK


def computed(tasks, environment=None):
    return list(
        remote.compute(
            [replace(task, folder=Path(task.key)) for task in tasks],
            "cpu",
            1,
            environment or remote.hello("cpu", 1),
            remote.files_for(tasks[0]),
        )
    )


def test_a_node_streams_events_and_the_bytes_of_each_shard(tasks, tmp_path):
    said = computed(tasks[:2])
    assert [one.event.what for one in said if one.event.what != "progress"] == [
        *("started", "done"),
        *("started", "done"),
    ]
    for task, one in zip(tasks, [one for one in said if one.files], strict=False):
        assert f"shard-{task.first:05d}-{task.last:05d}.parquet" in one.files
        _write(task, one.files)
        assert (task.folder / "target.json").is_file()
    assert not list(Path().glob(f"**/{tasks[0].key}.lock"))


def test_a_node_reports_progress_no_more_often_than_it_is_told(tasks):
    often, seldom = (
        [
            one.event.what
            for one in remote.compute(
                [replace(tasks[0], folder=Path(tasks[0].key))],
                "cpu",
                1,
                remote.hello("cpu", 1),
                {},
                pause,
            )
        ]
        for pause in (0.0, 1000.0)
    )
    assert often.count("progress") > 0
    assert seldom == ["started", "done"]


def test_a_node_of_another_environment_computes_nothing(tasks):
    (said,) = computed(tasks[:2], {**remote.hello("cpu", 1), "device": "NVIDIA H200"})
    assert said.event is None
    assert said.environment["device"] != "NVIDIA H200"


class Stream:
    """What a node streams back, by hand."""

    def __init__(self, *things):
        self.things = deque(things)

    def __next__(self):
        if not self.things:
            raise StopIteration
        thing = self.things.popleft()
        if isinstance(thing, Exception):
            raise thing
        return thing


class FakeRay:
    """As much of Ray as a course reads: streams are always ready."""

    class exceptions:  # noqa: N801 -- as Ray calls it
        RayError = type("RayError", (Exception,), {})
        NodeDiedError = type("NodeDiedError", (RayError,), {})
        OutOfMemoryError = type("OutOfMemoryError", (RayError,), {})

    def __init__(self):
        self.cancelled = []

    def wait(self, streams, **options):
        count = options["num_returns"]
        return streams[:count], streams[count:]

    def get(self, thing):
        return thing

    def cancel(self, stream, force):
        assert force
        self.cancelled.append(stream)


def course(monkeypatch, tasks, streams, *, deadline=60.0, lost=False):
    """The events of a course whose groups are answered by `streams` in turn."""
    fake, told = FakeRay(), []
    cluster = Ray(device="cpu", workers=1, threads=1, deadline=deadline, log="")
    cluster.environment = {"device": "cpu", "versions": {"torch": "2"}}
    left = deque(streams)

    def submit(group):
        group.running, group.stream = None, Stream(*left.popleft()(fake, list(group.tasks)))

    monkeypatch.setattr(on_ray, "NODE_CHECK", -1.0)
    cluster.submit = submit
    cluster.is_lost = lambda node: lost
    found = _Course(fake, cluster, told.append, _grouped(tasks))
    found.run()
    return told, fake


def done(fake, tasks):
    for task in tasks:
        yield remote.Streamed("n", Event("started", task))
        name = f"shard-{task.first:05d}-{task.last:05d}.parquet"
        yield remote.Streamed("n", Event("done", task), {name: b"bytes"})


def dies_after(count, kind):
    def stream(fake, tasks):
        yield from done(fake, tasks[:count])
        yield remote.Streamed("n", Event("started", tasks[count]))
        yield getattr(fake.exceptions, kind)("gone")

    return stream


def test_a_lost_node_costs_its_unfinished_shards_and_nothing_else(monkeypatch, tasks):
    few = tasks[:4]
    told, _ = course(monkeypatch, few, [dies_after(2, "NodeDiedError")] * 1 + [done])
    assert [event.task.first for event in told if event.what == "done"] == [0, 2, 4, 6]
    assert all(event.what != "problem" for event in told)
    assert len(list(few[0].folder.glob("shard-*"))) == 4


def test_a_crash_on_a_node_that_is_gone_blames_nobody(monkeypatch, tasks):
    streams = [dies_after(0, "RayError")] * 20 + [done]
    told, _ = course(monkeypatch, tasks[:1], streams, lost=True)
    assert [event.what for event in told if event.what != "started"] == ["done"]


@pytest.mark.parametrize("kind", ["NodeDiedError", "RayError", "OutOfMemoryError"])
def test_what_is_lost_after_its_last_shard_costs_nothing(monkeypatch, tasks, kind):
    def stream(fake, tasks):
        yield from done(fake, tasks)
        yield getattr(fake.exceptions, kind)("gone")

    told, _ = course(monkeypatch, tasks[:3], [stream])
    assert [event.what for event in told].count("done") == 3
    assert all(event.what != "problem" for event in told)


def test_nodes_may_be_lost_any_number_of_times(monkeypatch, tasks):
    told, _ = course(monkeypatch, tasks[:1], [dies_after(0, "NodeDiedError")] * 20 + [done])
    assert [event.what for event in told if event.what != "started"] == ["done"]


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [("RayError", "failed", "died 3 times"), ("OutOfMemoryError", "oom", "out of memory 3 times")],
    ids=["crash", "memory"],
)
def test_a_shard_whose_worker_dies_again_and_again_ends_its_cell_alone(
    monkeypatch, tasks, kind, status, said
):
    other = next(task for task in tasks if task.key != tasks[0].key)
    told, _ = course(monkeypatch, [tasks[0], other], [dies_after(0, kind)] * 3 + [done])
    (problem,) = [event for event in told if event.what == "problem"]
    assert (problem.status, problem.task) == (status, tasks[0])
    assert said in problem.reason
    assert [event.task for event in told if event.what == "done"] == [other]


def test_a_late_shard_is_cancelled_and_its_cell_times_out(monkeypatch, tasks):
    def hangs(fake, tasks):
        yield remote.Streamed("n", Event("started", tasks[0]))
        yield remote.Streamed("n", Event("progress", tasks[0], share=0.5))

    told, fake = course(monkeypatch, tasks[:1], [hangs], deadline=-1.0)
    (problem,) = [event for event in told if event.what == "problem"]
    assert problem.status == "timeout"
    assert len(fake.cancelled) == 1


def test_a_node_of_another_device_class_ends_the_run_by_name(monkeypatch, tasks):
    def other(fake, tasks):
        yield remote.Streamed("n", environment={"device": "NVIDIA H200", "versions": {}})

    with pytest.raises(GatebenchError, match="device was 'cpu', is 'NVIDIA H200'"):
        course(monkeypatch, tasks[:1], [other])
