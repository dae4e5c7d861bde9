"""A program that goes on while its plugins are edited, or that changes its folder: what runs is what
lies there, or it is refused."""

import importlib
import sys

import pytest

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


def test_a_module_of_another_folder_is_refused(module, tmp_path, monkeypatch):
    module(1.0)
    assert level() == 1.0
    importlib.import_module("grown_later")
    monkeypatch.chdir(tmp_path / "two")
    module(2.0)
    assert level() == 2.0
    with pytest.raises(PluginError, match=r"one/grown_later\.py, and .* another file of that name"):
        check_loaded(reads())
