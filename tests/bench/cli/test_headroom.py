"""`gatebench headroom`: a reference run at a multiple of the budget, held against a finished run."""

import json

import pytest

from bench.results.headroom import gain, read_headroom
from bench.store.folder import RunFolder

PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = 4
batch = 4
budget = 7
threat = { norm = "psnr", floor = 35 }
audit = 1
[[target]]
use = "skipnet"
weights = "skipnet-20-hrl@digits-m"
[[attack]]
use = "pry"
[[attack]]
use = "identity"
[[attack]]
use = "square"
"""


@pytest.fixture
def project(gatebench, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    return gatebench


def test_gain_counts_what_the_reference_adds_and_nothing_else():
    found = gain([50, 60, 100], [70, 40, 100], [20, 20, 20], 120)
    assert found.value == pytest.approx(20 / 300)
    assert found.low is not None
    assert 0 <= found.low <= found.value <= found.high
    assert gain([50], [60], [120], 120).value is None


def test_headroom_of_a_finished_run(project, tmp_path):
    code, _, err = project("headroom", "r")
    assert code != 0
    code, _, err = project("run", "plan.toml", "--name", "r", "--no-report")
    assert code == 0, err
    code, out, err = project("headroom", "r", "--images", "3", "--times", "6")
    assert code == 0, err
    document = json.loads((tmp_path / "runs/r/headroom.json").read_text())
    (entry,) = document["entries"]
    assert (entry["target"], entry["images"], entry["budget"]) == ("skipnet-20-hrl", 3, 42)
    assert entry["attack"] in ("pry", "square")
    assert entry["gain"] > 0  # two steps are not enough
    assert entry["low"] <= entry["gain"] <= entry["high"]
    assert "skipnet-20-hrl" in out
    folder = RunFolder(tmp_path / "runs/r")
    (read,) = read_headroom(folder, 0)
    assert read.gain == entry["gain"]
    assert read_headroom(folder, 1) == []


def test_what_was_computed_again_is_left_out(project, tmp_path):
    assert project("run", "plan.toml", "--name", "r", "--no-report")[0] == 0
    assert project("headroom", "r", "--images", "2", "--times", "2")[0] == 0
    path = tmp_path / "runs/r/headroom.json"
    document = json.loads(path.read_text())
    key = next(iter(document["entries"][0]["sources"]))
    document["entries"][0]["sources"][key] = "0" * 64
    path.write_text(json.dumps(document))
    assert read_headroom(RunFolder(tmp_path / "runs/r"), 0) == []
