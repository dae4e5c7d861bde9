"""What a plugin reads beside its own source is part of the record: changed, its rows are stale."""

import json
import sys
from fractions import Fraction

import pyarrow.parquet as pq
import pytest

from bench.contracts.cell import Cell, Component, Protocol
from bench.contracts.threat import Threat
from bench.executors.reads import Reads
from bench.plugins import registry

TARGET = """
import importlib
import json
from pathlib import Path

import torch

from bench.testing import ToyTarget
from frail_helper import bias
from targets import resnet  # a module of gatebench's own networks

class Frail(ToyTarget):
    def __init__(self, *, seed: int = 0, depth: int = 1) -> None:
        super().__init__(seed=seed)
        table = json.loads(Path(__file__).with_name(f"frail_{depth}.json").read_text())
        late = importlib.import_module("frail_" + "late")
        for gate in self.gates:
            torch.nn.init.constant_(gate.bias, bias() + table["bias"] + late.BIAS)
"""

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 5
[run]
device = "cpu"
shard = 6
workers = 1
[[target]]
use = "frail"
weights = "random:0"
[[attack]]
use = "identity"
"""


@pytest.fixture
def frail(tmp_path, monkeypatch, plugins):
    """A plugin whose behavior hangs on two modules and a data file beside it, in two folders."""
    site, other = tmp_path / "site", tmp_path / "other"
    info = site / "frail-1.0.dist-info"
    info.mkdir(parents=True)
    other.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: frail\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[gatebench.targets]\nfrail = frail:Frail\n")
    (site / "frail.py").write_text(TARGET)
    (site / "frail_1.json").write_text('{"bias": 0}')
    (site / "frail_2.json").write_text('{"bias": 0.5}')
    (site / "frail_late.py").write_text("BIAS = 0\n")
    (other / "frail_helper.py").write_text("def bias():\n    return 0\n")
    for folder in (site, other):
        monkeypatch.syspath_prepend(str(folder))
    registry.providers.cache_clear()
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("frail")]:
        del sys.modules[name]


def cell(depth=1):
    target = Component("frail", "frail", "frail:Frail", "frail", {"seed": 0, "depth": depth})
    attack = Component("noise", "gatebench", "", "noise", {})
    threat = Threat("linf", Fraction(8, 255))
    protocol = Protocol("toy-pixels:test", 6, batch=3, threat=threat, budget=5, seed=0, audit=1)
    return Cell(protocol, target, attack)


def test_everything_that_making_it_reads_is_named(frail, tmp_path):
    reads = Reads(tmp_path / "log.txt")
    found = reads.of(cell())
    assert set(found) == {"target"}
    names = set(found["target"])
    assert {"module:frail", "module:frail_helper", "module:frail_late"} <= names
    assert {"module:targets.resnet", "file:frail_1.json"} <= names
    assert "file:frail_2.json" not in names
    assert not [name for name in names if str(tmp_path) in name or "torch" in name]
    assert "file:frail_2.json" in reads.of(cell(depth=2))["target"]


def test_the_list_is_kept_and_made_again_when_a_file_changed(frail, tmp_path, monkeypatch):
    first = Reads(tmp_path / "log.txt").of(cell())
    with monkeypatch.context() as patch:
        patch.setattr("bench.executors.reads._trace", lambda *_: pytest.fail("traced again"))
        assert Reads(tmp_path / "log.txt").of(cell()) == first
    (frail / "other" / "frail_helper.py").write_text("def bias():\n    return 1\n")
    second = Reads(tmp_path / "log.txt").of(cell())
    changed = {name for name in second["target"] if second["target"][name] != first["target"][name]}
    assert changed == {"module:frail_helper"}


@pytest.mark.parametrize(
    "code",
    ["import os; os._exit(3)", "raise SystemExit(2)", "1 / 0"],
    ids=["exit", "quit", "error"],
)
def test_a_plugin_that_cannot_be_made_is_no_obstacle(frail, tmp_path, code):
    (frail / "other" / "frail_helper.py").write_text(f"{code}\n")
    assert set(Reads(tmp_path / "log.txt").of(cell())) == {"target"}


EDITS = {
    "helper": ("other/frail_helper.py", "def bias():\n    return 30\n", "module:frail_helper"),
    "late": ("site/frail_late.py", "BIAS = 30\n", "module:frail_late"),
    "data": ("site/frail_1.json", '{"bias": 30}', "file:frail_1.json"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_run_refuses_rows_of_other_code_and_check_fails(gatebench, frail, tmp_path, edit):
    """The edit opens every gate: the target saves nothing any more."""
    file, content, name = EDITS[edit]
    (tmp_path / "plan.toml").write_text(PLAN)
    command = ("run", "plan.toml", "--name", "r", "--no-report")
    code, _, err = gatebench(*command)
    assert code == 0, err
    assert gatebench("baseline", "runs/r", "--out", "base.json")[0] == 0
    code, _, err = gatebench(*command)
    assert code == 0, err
    (frail / file).write_text(content)
    code, _, err = gatebench(*command)
    assert code == 5
    assert f"made otherwise: reads.target.{name} was '" in err
    checked = ("check", "plan.toml", "--name", "r", "--baseline", "base.json")
    code, out, err = gatebench(*checked)
    assert code == 8, out + err
    assert "clean saving 31.0 % -> 0.0 %" in out
    code, _, err = gatebench(*command)
    assert code == 0, err


def test_the_record_names_no_folder(gatebench, frail, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    code, _, err = gatebench("run", "plan.toml", "--name", "r", "--no-report")
    assert code == 0, err
    (shard,) = tmp_path.glob("runs/r/cells/*/shard-*.parquet")
    record = json.loads(pq.read_schema(shard).metadata[b"gatebench"])
    assert set(record["reads"]) == {"target"}
    assert str(tmp_path) not in json.dumps(record)
