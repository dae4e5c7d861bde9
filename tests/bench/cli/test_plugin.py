"""`gatebench plugin new`: packages that keep their contract at once, and the tests of every kind."""

import importlib
import sys
import tomllib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from bench.api import BoardReport, PixelDataset
from bench.cli import plugin_package
from bench.cli.plugin import _CHECKS, KINDS, _kind
from bench.cli.plugin_package import write_package
from bench.errors import DiskError, PlanError
from bench.plugins.registry import GROUPS
from bench.testing import check_dataset, check_recipe, check_report, problems, sample_board
from bench.testing.report import HOSTILE

KIND = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def importable(monkeypatch):
    """Makes a folder importable, and forgets what was imported from it."""
    before = set(sys.modules)

    def add(folder):
        monkeypatch.syspath_prepend(str(folder))
        importlib.invalidate_caches()

    yield add
    for name in set(sys.modules) - before:
        if name.startswith("gatebench_my"):
            del sys.modules[name]


@KIND
def test_what_is_written_keeps_its_contract(kind, tmp_path, importable):
    folder, module, made = write_package(kind, f"my-{kind}", tmp_path / "package")
    importable(folder / "src")
    plugin = getattr(importlib.import_module(module), made)
    what = _kind(plugin)
    assert what == {"dataset": "data set"}.get(kind, kind)
    findings = _CHECKS[what](f"{module}:{made}", {}, None)
    assert len(findings) >= 4
    assert problems(findings) == []
    points = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    assert points == {GROUPS[kind]: {f"my-{kind}": f"{module}:{made}"}}
    compile((folder / "tests/test_contract.py").read_text(), "test", "exec")
    assert f"check_{kind}" in (folder / "tests/test_contract.py").read_text()


def test_a_package_is_written_and_tested_by_commands(gatebench, tmp_path, importable):
    code, out, _ = gatebench("plugin", "new", "report", "my-lines")
    assert code == 0
    assert "gatebench plugin test gatebench_my_lines.my_lines:MyLines" in out
    importable(tmp_path / "gatebench-my-lines/src")
    code, out, err = gatebench("plugin", "test", "gatebench_my_lines.my_lines:MyLines")
    assert code == 0, err
    assert "4 promises kept, 0 broken" in out
    code, _, err = gatebench("plugin", "new", "report", "my-lines")
    assert code == 2
    assert "is there already" in err


def test_after_a_full_disk_the_same_command_writes_the_package(tmp_path, monkeypatch):
    """What was written of it is removed: it would be refused as being there already."""
    out, plain, left = tmp_path / "out", plugin_package.write_atomic, [1, 2]

    def full(path, data):
        if not left:
            raise DiskError(f"cannot write {path}: no space")
        left.pop()
        plain(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(plugin_package, "write_atomic", full)
        with pytest.raises(DiskError):
            write_package("attack", "mine", out)
    assert not out.exists()
    assert write_package("attack", "mine", out)[0] == out


@pytest.mark.parametrize("name", ["Mine", "a_b", "../x", "", "1a", "a--b"])
def test_odd_names_are_refused(name, tmp_path):
    with pytest.raises(PlanError, match="no name of a plugin"):
        write_package("attack", name, tmp_path / "p")
    assert not (tmp_path / "p").exists()


class Wrong(PixelDataset):
    """Says 9 images where there are 8."""

    splits = ("test",)
    sizes: ClassVar = {"test": 9}

    def __init__(self, split, data_root=None):
        self.name, self.split, self.classes = "wrong", split, ("a", "b")
        pictures = np.random.default_rng(0).integers(0, 255, (8, 4, 4, 3), dtype=np.uint8)
        self.hold(pictures, np.arange(8) % 2)


class Shared(Wrong):
    """Hands out its own memory."""

    sizes: ClassVar = {}

    def pixels(self, indices):
        kept = self._pictures.transpose(0, 3, 1, 2)
        return kept if list(indices) == list(range(8)) else super().pixels(indices)


class Backward(Wrong):
    """Ignores the order that is asked for, and numbers classes from 1."""

    sizes: ClassVar = {}

    def __init__(self, split, data_root=None):
        super().__init__(split, data_root)
        self.label_array = self.label_array + 1

    def pixels(self, indices):
        return super().pixels(sorted(indices))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(Wrong, "sizes says 9 for 'test', there are 8", id="sizes"),
        pytest.param(Shared, "returns its own memory", id="memory"),
        pytest.param(Backward, "does not follow the order", id="order"),
        pytest.param(Backward, "labels lie between 1 and 2, there are 2 classes", id="labels"),
    ],
)
def test_what_is_wrong_with_a_data_set_is_named(kind, said):
    assert said in "\n".join(problems(check_dataset(kind)))


@dataclass(frozen=True)
class Loud(BoardReport):
    """Shows a label as markup, and something new each time."""

    told: str = "labels"

    def render(self, board, out):
        out.mkdir(parents=True)
        if self.told == "labels":
            (out / "page.html").write_text(board.cells[0].target)
        elif self.told == "random":
            (out / "page.txt").write_text(str(np.random.default_rng().random()))
        elif self.told == "numbers":
            (out / "page.txt").write_text(f"{board.cells[0].recovery.value:.1f}")
        elif self.told == "beside":
            (out.parent / "page.txt").write_text("x")


@pytest.mark.parametrize(
    ("told", "said"),
    [
        pytest.param("labels", "holds a label as markup", id="markup"),
        pytest.param("random", "two reports of one board differ in page.txt", id="random"),
        pytest.param("numbers", "cells without numbers", id="numbers"),
        pytest.param("beside", "it wrote beside the folder", id="beside"),
        pytest.param("nothing", "it wrote no file", id="nothing"),
    ],
)
def test_what_is_wrong_with_a_report_is_named(told, said):
    assert said in "\n".join(problems(check_report(Loud(told))))


def test_the_sample_board_has_something_of_everything():
    board = sample_board(name=HOSTILE)
    assert [cell.status for cell in board.cells] == ["ok", "ok", "skipped"]
    assert len(board.cells[0].rows()) == 2


def test_a_recipe_without_stages_or_gradients_is_named():
    from targets.recipes.fbs import FBSRecipe

    class Empty:
        stages: ClassVar = {}

    assert "expected a mapping" in problems(check_recipe(Empty))[0]
    (name, kind), *_ = FBSRecipe.stages.items()

    @dataclass(frozen=True, kw_only=True)
    class Cut(kind):
        def loss(self, target, images, labels, moment):
            loss, shown = super().loss(target, images, labels, moment)
            return loss.detach().requires_grad_(), shown

    class Detached:
        stages: ClassVar = {name: Cut}

    said = problems(check_recipe(Detached, {"depth": 8}))
    assert any("no weight of groups() has a gradient" in one for one in said)
