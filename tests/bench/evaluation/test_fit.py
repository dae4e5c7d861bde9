"""What an attack learns once a cell: once, on its own budget, held to its contract, and read back
whole."""

import os
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from mischief_site import TOY_PLAN

from bench.api import Attack
from bench.contracts.cell import Fit
from bench.contracts.threat import Threat
from bench.datasets.base import open_dataset
from bench.errors import ContractBroken, PlanError
from bench.evaluation.fit import fit_attack
from bench.evaluation.meter import ForwardMeter
from bench.files.regular import LARGEST
from bench.plans.resolve import load_plan
from bench.store.documents import read_json
from bench.store.folder import CellFolder
from bench.testing import ToyTarget

pytestmark = pytest.mark.usefixtures("plugins")
LINF = Threat("linf", Fraction(8, 255))


@dataclass(frozen=True, kw_only=True)
class Learner(Attack):
    fits: ClassVar[bool] = True
    deed: str = "learn"
    calls: ClassVar[list[int]] = []

    def fit(self, view, images, job):
        self.calls.append(len(images))
        rows = torch.arange(len(images))
        if self.deed == "spend":
            for _ in range(99):
                view(images, rows)
        if self.deed == "edit":
            images += 0.5
        if self.deed == "nothing":
            return None
        view(images, rows)
        value = torch.full((3,), float("nan") if self.deed == "nan" else 1.5)
        return {"value": value}

    def perturb(self, view, images, labels, job):
        return images


@pytest.fixture
def fit(tmp_path):
    (tmp_path / "cell").mkdir()
    folder = CellFolder(tmp_path / "cell")
    target = ToyTarget().eval().requires_grad_(False)

    def make(deed="learn"):
        Learner.calls.clear()
        nobody = torch.device("cpu"), lambda done, total: None
        found = fit_attack(
            Learner(deed=deed),
            target,
            ForwardMeter(target),
            open_dataset("toy-pixels:train"),
            Fit("train", 6, 7),
            LINF,
            0,
            folder,
            *nobody,
        )
        return found, folder

    return make


def test_once_a_cell_and_again_where_the_file_was_damaged(fit):
    found, folder = fit()
    assert Learner.calls == [6]
    assert found["value"].tolist() == [1.5] * 3
    assert (
        read_json(folder.path / "fit.json")["images"],
        read_json(folder.path / "fit.json")["evaluations"],
    ) == (6, 6)
    fit()
    assert Learner.calls == [], "read back, not learnt again"
    (folder.path / "fit.safetensors").write_bytes(b"torn")
    found, _ = fit()
    assert Learner.calls == [6]
    assert found["value"].tolist() == [1.5] * 3


def sparse(path):
    with open(path, "wb") as file:
        file.truncate(LARGEST + 1)  # a hole


def device(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(sparse, id="too large"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(device, id="link to a device"),
    ],
)
def test_again_where_something_else_lies_in_the_place_of_the_file(fit, make, monkeypatch):
    _, folder = fit()
    place = folder.path / "fit.safetensors"
    place.unlink()
    make(place)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"read without bound: {path}"))
    found, _ = fit()
    assert Learner.calls == [6]
    assert found["value"].tolist() == [1.5] * 3


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_a_lock_that_is_no_file_ends_the_run_and_the_cell_stays_unfinished(
    gatebench, tmp_path, make
):
    fit = 'fit = { split = "train", images = 6, budget = 40 }\n[run]'
    plan = TOY_PLAN.replace("[run]", fit, 1).partition("[[attack]]")[0]
    (tmp_path / "plan.toml").write_text(plan + '[[attack]]\nuse = "universal"\n')
    run = ("run", "plan.toml", "--out", ".", "--name", "r", "--in-process", "--no-report")
    assert gatebench(*run)[0] == 0
    cell = next((tmp_path / "r" / "cells").iterdir())
    for name in ("shard-00003-00005.parquet", "fit.lock"):
        (cell / name).unlink()
    make(cell / "fit.lock")
    code, _, err = gatebench(*run)
    assert code == 6
    assert f"gatebench: cannot open {cell / 'fit.lock'}: " in err
    assert "--fresh removes it" in err
    assert (cell / "shard-00000-00002.parquet").is_file()
    assert gatebench(*run, "--fresh")[0] == 0


@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("spend", "catch BudgetSpent"),
        ("edit", "edited its images"),
        ("nothing", "NoneType"),
        ("nan", "NaN"),
    ],
)
def test_a_fit_that_breaks_its_contract(fit, deed, said):
    with pytest.raises(ContractBroken, match=said):
        fit(deed)


PLAN = """
[protocol]
dataset = "digits-m:test"
images = 4
threat = {{ norm = "linf", eps = "8/255" }}
{more}
[[target]]
use = "skipnet"
weights = "skipnet-20-budget@digits-m"
[[attack]]
use = "universal"
[[attack]]
use = "ilfo"
"""


def test_the_terms_of_the_fit_are_in_the_keys_of_those_that_fit_only(tmp_path):
    keys = []
    for images in (32, 64):
        (tmp_path / "plan.toml").write_text(PLAN.format(more=f"fit = {{ images = {images} }}"))
        plan = load_plan(tmp_path / "plan.toml")
        assert [cell.attack.fits for cell in plan.cells] == [True, False]
        keys.append([cell.key("subset", "cost", "fit images") for cell in plan.cells])
    assert keys[0][0] != keys[1][0]
    assert keys[0][1] == keys[1][1]
    assert plan.cells[0].key("subset", "cost", "others") != keys[1][0]
    assert replace(plan.cells[1]).key("subset", "cost", "others") == keys[1][1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('fit = { split = "test" }', "is the split that is scored"),
        ("fit = { images = 0 }", "at least 1 image"),
        ("fit = { imges = 3 }", "unknown key 'imges'; did you mean 'images'?"),
    ],
)
def test_mistakes_about_the_fit(tmp_path, more, said):
    (tmp_path / "plan.toml").write_text(PLAN.format(more=more))
    with pytest.raises(PlanError, match=said.replace("?", r"\?")):
        load_plan(tmp_path / "plan.toml")
