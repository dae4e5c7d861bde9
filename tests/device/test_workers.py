"""`gatebench run --device cuda` on two simulated devices: a worker process for each."""

import pyarrow.parquet as pq
import pytest
import simulated_worker

from bench.executors import local
from bench.plans.resolve import load_plan
from bench.runs.execute import RunRequest, execute

PLAN = """
[protocol]
dataset = "digits-m:test"
images = 12
batch = 4
threat = { norm = "linf", eps = "16/255" }
budget = 9
audit = 1
[run]
device = "DEVICE"
shard = 4
[[target]]
use = "skipnet"
params = { depth = 8 }
weights = "random:0"
[[attack]]
use = "gradauto"
[[attack]]
use = "identity"
"""
COLUMNS = ("id", "clean_macs", "adversarial_macs", "clean_decisions", "adversarial_decisions")
COUNTS = ("forwards", "backwards", "held", "flipped")


def _rows(tmp_path, device, name):
    path = tmp_path / f"{name}.toml"
    path.write_text(PLAN.replace("DEVICE", device))
    laid, outcome = execute(RunRequest(load_plan(path), "", tmp_path, name))
    assert outcome.is_clean, outcome.problems
    shards = sorted((tmp_path / name).rglob("shard-*.parquet"))
    return laid, [row for shard in shards for row in pq.read_table(shard).to_pylist()]


@pytest.mark.slow  # ten thousands of operators, each through the simulation
def test_every_device_has_a_worker_and_its_rows_are_those_of_the_cpu(tmp_path, monkeypatch):
    here, expected = _rows(tmp_path, "cpu", "here")
    monkeypatch.setattr(local, "serve", simulated_worker.serve)
    there, found = _rows(tmp_path, "cuda", "there")
    tasks = (there.folder.path / simulated_worker.TASKS).read_text().split("\n")[:-1]
    assert len(tasks) == len(set(tasks)) == 6
    assert {task.split()[0] for task in tasks} == {"cuda:0", "cuda:1"}
    assert here.plan.cells.keys() == there.plan.cells.keys()
    assert any(row["adversarial_macs"] > row["clean_macs"] for row in expected)
    for mine, other in zip(found, expected, strict=True):
        for name in (*COLUMNS, *COUNTS):
            assert mine[name] == other[name], name
