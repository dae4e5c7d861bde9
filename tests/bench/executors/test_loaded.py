"""A program that goes on while its plugins are edited, or that changes its folder: what runs is what
lies there, or it is refused."""

import importlib
import sys

import pytest

import bench
from bench.errors import PluginError
from bench.executors.loaded import check_loaded, note_loaded
from bench.executors.reads import file_digest
from bench.plugins import registry
from bench.plugins.sources import read_module, source_file

SOURCE = '''from dataclasses import dataclass
from bench.api import Attack

@dataclass(frozen=True, kw_only=True)
class Mine(Attack):
    """{doc}"""

    level: float = {level}

    def perturb(self, view, images, labels, job):
        return images
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module of an attack into the working folder, which is `tmp_path`/one."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(registry, "_added", [])
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "one")

    def write(level, doc=""):
        with open("grown_later.py", "w") as file:
            file.write(SOURCE.format(level=level, doc=doc))
        importlib.invalidate_caches()

    yield write
    sys.modules.pop("grown_later", None)


def level():
    name = f"{registry.BY_MODULE}/grown_later:Mine"
    return registry.find("attack", name).facts().parameters["level"].default


def reads():
    return {"attack": {"module:grown_later": file_digest(source_file("grown_later"))}}


def test_a_default_that_was_edited_is_read_anew(module):
    module(0.25)
    assert level() == level() == 0.25
    assert read_module("grown_later") is read_module("grown_later"), "and parsed once"
    module(0.875)
    assert level() == 0.875


@pytest.mark.parametrize("imported", [False, True], ids=["not-imported", "imported"])
def test_a_module_is_found_in_the_folder_of_now(module, tmp_path, monkeypatch, imported):
    module(1.0)
    assert level() == 1.0
    if imported:
        importlib.import_module("grown_later")
    monkeypatch.chdir(tmp_path / "two")
    module(2.0)
    assert level() == 2.0
    assert str(tmp_path / "one") not in sys.path
    assert source_file("grown_later") == tmp_path / "two/grown_later.py"


def test_a_module_that_was_edited_since_it_was_imported_is_refused(module):
    module(0.25)
    assert level() == 0.25
    check_loaded(reads())  # not imported yet
    found = importlib.import_module("grown_later")
    note_loaded(reads())
    check_loaded(reads())
    module(0.875)
    with pytest.raises(PluginError, match=r"'grown_later' is imported from .* has changed since"):
        check_loaded(reads())
    importlib.reload(found)
    check_loaded(reads())
    assert found.Mine().level == 0.875


TARGET = """from torch import nn
from bench.testing import ToyTarget

class Net(ToyTarget):
    def macs(self, decisions):
        return super().macs(decisions){more}

    def forward(self, images, decisions=None):
        return super().forward({seen}, decisions)

    def execute(self, image, decisions=None):
        return super().execute({seen_alone}, decisions)

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.first = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.first.weight)
"""
ONCE = {"more": "", "seen": "images", "seen_alone": "image"}
MORE = {
    "more": " + 9 * 64",
    "seen": "self.first(images)",
    "seen_alone": "self.first(image)",
}
PLAN = """
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 2
threat = { norm = "linf", eps = "8/255" }
budget = 3
audit = 1
[run]
device = "cpu"
[[target]]
use = "grown_later:Net"
weights = "random:0"
[[attack]]
use = "identity"
"""


def test_a_target_that_was_loaded_again_is_the_one_that_is_run(module, tmp_path, plugins):
    """The last target was kept by its name, and its ceiling stayed that of the old code."""

    def reference():
        found = bench.run(tmp_path / "plan.toml", out=tmp_path, fresh=True, in_process=True)
        (cell,) = found.boards[0].cells
        assert cell.status == "ok", cell.reason
        return cell.reference

    (tmp_path / "plan.toml").write_text(PLAN)
    source = tmp_path / "one" / "grown_later.py"
    source.write_text(TARGET.format(**ONCE))
    once = reference()
    source.write_text(TARGET.format(**MORE))
    importlib.reload(sys.modules["grown_later"])
    assert reference() == once + 9 * 64


def test_a_module_of_another_folder_is_refused(module, tmp_path, monkeypatch):
    module(1.0)
    assert level() == 1.0
    importlib.import_module("grown_later")
    monkeypatch.chdir(tmp_path / "two")
    module(2.0)
    assert level() == 2.0
    with pytest.raises(PluginError, match=r"one/grown_later\.py, and .* another file of that name"):
        check_loaded(reads())
