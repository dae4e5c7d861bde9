"""What a plugin reads beside its own source is part of the record: changed, its rows are stale."""

import importlib
import json
import os
import py_compile
import shutil
import sys
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from bench.contracts.cell import Cell, Component, Protocol
from bench.contracts.threat import Threat
from bench.executors import reads
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
    traced = Reads(tmp_path / "log.txt")
    found = traced.of(cell())
    assert set(found) == {"target"}
    names = set(found["target"])
    assert {"module:frail", "module:frail_helper", "module:frail_late"} <= names
    assert {"module:targets.resnet", "file:frail_1.json"} <= names
    assert "file:frail_2.json" not in names
    assert not [name for name in names if str(tmp_path) in name or "torch" in name]
    assert "file:frail_2.json" in traced.of(cell(depth=2))["target"]


def test_the_list_is_kept_and_made_again_when_a_file_changed(frail, tmp_path, monkeypatch):
    first = Reads(tmp_path / "log.txt").of(cell())
    with monkeypatch.context() as patch:
        patch.setattr("bench.executors.reads._trace", lambda *_: pytest.fail("traced again"))
        assert Reads(tmp_path / "log.txt").of(cell()) == first
    (frail / "other" / "frail_helper.py").write_text("def bias():\n    return 1\n")
    second = Reads(tmp_path / "log.txt").of(cell())
    changed = {name for name in second["target"] if second["target"][name] != first["target"][name]}
    assert changed == {"module:frail_helper"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_the_place_of_a_file_counts_as_absent(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    holder = os.open(tmp_path / "pipe", os.O_RDWR)  # or a reader that opens it would block
    os.write(holder, b"x")
    os.set_blocking(holder, False)
    assert reads._now("file:pipe", str(tmp_path / "pipe")) == "absent"
    assert os.read(holder, 9) == b"x", "was read"
    os.close(holder)


def test_what_could_not_be_traced_once_is_traced_the_next_time(frail, tmp_path, monkeypatch):
    """A busy machine, on which making the plugin took too long: no edit would be seen any more."""
    with monkeypatch.context() as patch:
        patch.setattr(reads, "TRACE_LIMIT", 0)
        assert Reads(tmp_path / "log.txt").of(cell()) == {"target": {}}
    assert "module:frail_helper" in Reads(tmp_path / "log.txt").of(cell())["target"]


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


WIDE = """
import importlib.util
import os
from pathlib import Path

import pyarrow.parquet
import wide_dependency
import wide_space.inner
from safetensors.torch import load_file

from bench.testing import ToyTarget

try:
    import wide_faster
except ImportError:
    wide_faster = None
HERE = Path(__file__).parent

class Wide(ToyTarget):
    def __init__(self) -> None:
        super().__init__()
        self.bias = float(os.environ.get("WIDE_BIAS", "0"))
        self.tables = [each.read_text() for each in sorted((HERE / "tables").glob("*.txt"))]
        self.weights = load_file(HERE / "wide.safetensors")
        self.rows = pyarrow.parquet.read_table(str(HERE / "wide.parquet"))
        spec = importlib.util.spec_from_file_location("unnamed", HERE / "wide_unnamed.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))

    def macs(self, decisions):
        from wide_late import extra

        return super().macs(decisions) + extra() + int(os.getenv("WIDE_EXTRA", "0"))
"""
"""Reads in ten ways beside an import and `open`."""

CHANGES = {
    "variable": "variable:WIDE_BIAS",
    "variable-read-later": "variable:WIDE_EXTRA",
    "module-that-was-missing": "module:wide_faster",
    "module-imported-later": "module:wide_late",
    "module-of-that-one": "module:wide_later",
    "module-that-was-compiled": "file:wide_unnamed.py",
    "package-without-init": "module:wide_space.inner",
    "file-in-a-listed-folder": "folder:tables/*.txt",
    "weights": "file:wide.safetensors",
    "parquet": "file:wide.parquet",
    "dependency": "distribution:wide-dependency",
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """A plugin, and what making it read."""
    place = tmp_path_factory.mktemp("wide")
    (place / "tables").mkdir()
    (place / "tables" / "a.txt").write_text("1")
    (place / "wide_space").mkdir()
    (place / "wide_space" / "inner.py").write_text("A = 1\n")
    for name, content in {
        "wide": WIDE,
        "wide_late": "from wide_later import extra\n",
        "wide_later": "def extra():\n    return 0\n",
        "wide_unnamed": "A = 1\n",
    }.items():
        (place / f"{name}.py").write_text(content)
    py_compile.compile(str(place / "wide_unnamed.py"))
    save_file({"a": torch.zeros(2)}, place / "wide.safetensors")
    pq.write_table(pa.table({"a": [1]}), place / "wide.parquet")
    installed = place / "site-packages"
    depend(installed, "1.0")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(installed))
        patch.syspath_prepend(str(place))
        target = Component("wide:Wide", registry.BY_MODULE, "wide:Wide", "wide", {})
        one = Cell(cell().protocol, target, cell().attack)
        yield place, Reads(place / "log.txt").of(one)["target"]
        sys.path_importer_cache.clear()


def depend(installed, version):
    """Install a distribution, and no other version of it."""
    for old in installed.glob("*.dist-info"):
        shutil.rmtree(old)
    info = installed / f"wide_dependency-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: wide-dependency\nVersion: {version}\n"
    )
    (info / "top_level.txt").write_text("wide_dependency\n")
    (installed / "wide_dependency.py").write_text(f"VERSION = {version}\n")


@pytest.mark.parametrize("change", CHANGES)
def test_everything_else_that_numbers_hang_on_is_on_the_list(wide, monkeypatch, change):
    place, found = wide
    name = CHANGES[change]
    assert name in found
    paths = {"folder": place / "tables", "distribution": "", "variable": ""}
    kind, _, called = name.partition(":")
    path = str(paths.get(kind, place / called))
    if name in ("module:wide_faster", "module:wide_late", "module:wide_later"):
        path = ""
    elif kind == "module":
        path = str(place / f"{called.replace('.', '/')}.py")
    assert reads._now(name, path) == found[name], "as long as nothing changes"
    if kind == "variable":
        monkeypatch.setenv(called, "1")
    elif kind == "distribution":
        depend(place / "site-packages", "2.0")
    elif kind == "folder":
        (place / "tables" / "b.txt").write_text("2")
    else:
        file = place / f"{called.replace('.', '/')}.py" if kind == "module" else place / called
        file.write_bytes(b"changed = 1\n")
    importlib.invalidate_caches()
    assert reads._now(name, path) != found[name]


def test_the_list_names_nothing_of_the_installation(wide):
    _, found = wide
    foreign = [
        name for name in found if any(part in name for part in ("torch", "pydantic", "lib/"))
    ]
    assert not foreign
