"""Thresholds that a plan may move: a trained network saves more or less by its own rule."""

import math
from dataclasses import replace

import pytest
import torch

from bench.datasets.base import open_dataset, subset
from bench.errors import PlanError
from bench.evaluation.build import build_defended
from bench.evaluation.cost import audit
from bench.evaluation.outputs import freeze
from bench.files.home import weights_home
from bench.image import to_float
from bench.plans.components import declared_here
from bench.plans.resolve import load_plan
from bench.testing import check_target, problems
from bench.verify.components import component_problems
from bench.weights import add_entry, find, load_entry
from targets.aig import AIG
from targets.avit import AViT
from targets.dynconv import DynConv
from targets.manidp import ManiDP
from targets.sact import SACT
from targets.skipnet import SkipNet

FAMILIES = {
    "skipnet-20-budget@digits-m": (SkipNet, "threshold", (0.4, 0.5, 0.7)),
    "aig-20-aig@digits-m": (AIG, "threshold", (0.3, 0.5, 0.8)),
    "dynconv-20-dynconv@digits-m": (DynConv, "threshold", (0.3, 0.5, 0.8)),
    "sact-20-sact@digits-m": (SACT, "threshold", (0.999, 0.99, 0.6)),
    "avit-32x6-p8-avit@digits-m": (AViT, "threshold", (0.999, 0.99, 0.6)),
    "manidp-20-dynamic@digits-m": (ManiDP, "threshold_factor", (0.8, 1.0, 1.2)),
}
"""Class, parameter, and values of it that save more and more; the second one is the default."""


def network(name, value=None):
    family, parameter, _ = FAMILIES[name]
    entry = find(name)
    target = family(**entry.params, **({} if value is None else {parameter: value}))
    load_entry(target, entry)
    freeze(target)
    return target


@pytest.fixture(scope="module")
def images():
    data = open_dataset("digits-m:test", None)
    return to_float(data.images(list(range(32))))


OTHERS = pytest.mark.slow  # the same promise of further networks
QUICK = ("skipnet-20-budget@digits-m", "sdn-resnet-20-joint@digits-m")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in QUICK else OTHERS, id=name) for name in FAMILIES],
)
def test_the_default_changes_nothing_and_further_values_save_more(name, images):
    spent = []
    for value in FAMILIES[name][2]:
        target = network(name, value)
        with torch.no_grad():
            output = target(images)
        assert torch.equal(output.decisions, target.units.admissible(output.decisions))
        spent.append(int(target.macs(output.decisions).sum()))
    assert spent == sorted(spent, reverse=True)
    assert len(set(spent)) == 3
    plain, same = network(name), network(name, FAMILIES[name][2][1])
    with torch.no_grad():
        one, other = plain(images), same(images)
    for field in ("logits", "margins", "logit_margins", "decisions"):
        assert torch.equal(getattr(one, field), getattr(other, field))
    assert torch.equal(plain.units.threshold, same.units.threshold)


def test_the_first_margins_by_hand(images):
    """What the first units read depends on no decision, so they move by the threshold alone."""
    for name, first, value, moved, logit in (
        ("skipnet-20-budget@digits-m", 1, 0.7, -0.2, -math.log(0.7 / 0.3)),
        ("aig-20-aig@digits-m", 1, 0.8, -0.3, -math.log(0.8 / 0.2)),
        ("dynconv-20-dynconv@digits-m", 1024, 0.8, -math.log(4), -math.log(4)),
        ("sact-20-sact@digits-m", 1024, 0.6, -0.39, -0.39),
        ("avit-32x6-p8-avit@digits-m", 16, 0.6, -0.39, -0.39),
    ):
        with torch.no_grad():
            one, other = network(name)(images), network(name, value)(images)
        for field, by in (("margins", moved), ("logit_margins", logit)):
            found = (getattr(other, field) - getattr(one, field))[:, :first]
            assert torch.allclose(found, torch.full_like(found, by), atol=1e-5), (name, field)
    name = "manidp-20-dynamic@digits-m"
    plain, moved = network(name), network(name, 1.2)
    first = plain.convolutions[0].outputs
    thre = float(plain.branches()[0].thre)
    with torch.no_grad():
        found = (moved(images).margins - plain(images).margins)[:, :first]
    assert torch.allclose(found, torch.full_like(found, -0.2 * thre), atol=1e-6)
    assert moved.units.threshold[0] == pytest.approx(1.2 * thre)


SLOW = pytest.mark.slow  # the whole contract on a trained network; one is quick


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name.startswith("skipnet") else SLOW) for name in FAMILIES],
)
def test_moved_thresholds_keep_the_contract(name, images):
    target = network(name, FAMILIES[name][2][2])
    assert not problems(check_target(target, images[:4]))
    assert audit(target, images[:1]).macs < target.ceiling


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 2.0, math.nan], ids=str)
def test_thresholds_that_nothing_can_have(value):
    for family in (SkipNet, AIG, DynConv, SACT):
        with pytest.raises(PlanError, match="threshold = "):
            family(depth=8, threshold=value)
    with pytest.raises(PlanError, match="threshold = "):
        AViT(backbone="vit-32x2-p8", threshold=value)
    if not value > 0:
        with pytest.raises(PlanError, match="threshold_factor = "):
            ManiDP(depth=8, threshold_factor=value)


@pytest.mark.slow  # eight trained networks on 256 images each
def test_the_networks_of_the_suite_save_what_it_says():
    """At equal clean saving: 36 % of the ceiling on images that are not scored."""
    data = open_dataset("digits-m:train", None)
    images = to_float(data.images(list(subset(data, 256))))
    (cells,) = load_plan("equal-saving").boards
    targets = {cell.target.label: cell for cell in cells}
    assert len(targets) == 8
    for label, cell in targets.items():
        target = build_defended(cell, None)
        freeze(target)
        with torch.no_grad():
            spent = [target.macs(target(part).decisions) for part in images.split(64)]
        saving = 1 - float(torch.cat(spent).double().mean()) / target.ceiling
        assert saving == pytest.approx(0.36, abs=0.008), label


PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = 4
budget = 8
threat = { norm = "psnr", floor = 35 }
[[target]]
use = "skipnet"
weights = "skipnet-20-budget@digits-m"
params = { threshold = VALUE }
[[attack]]
use = "identity"
"""


def component(folder, value, weights="skipnet-20-budget@digits-m"):
    text = PLAN.replace("VALUE", value) if value else PLAN.replace("params = {", "# {")
    text = text.replace("skipnet-20-budget@digits-m", weights)
    (folder / "plan.toml").write_text(text)
    ((cell,),) = load_plan(folder / "plan.toml").boards
    return cell.target


def test_a_plan_moves_the_threshold_of_weights_that_have_a_name(tmp_path):
    usual, moved = component(tmp_path, ""), component(tmp_path, "0.7")
    assert "threshold" not in usual.params
    assert component(tmp_path, "0.5").params == usual.params, "published keys stay what they are"
    assert moved.params == {**usual.params, "threshold": 0.7}
    assert declared_here("target", moved).params == moved.params
    with pytest.raises(PlanError, match="threshold"):
        component(tmp_path, "1.5")


def test_own_weights_that_state_a_threshold(tmp_path, monkeypatch):
    """An import notes every parameter of the network; its default changes no key."""
    usual = component(tmp_path, "")
    params = find("skipnet-20-budget@digits-m").params
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    for name, value in (("a", 0.5), ("b", 0.7)):
        noted = {"target": "skipnet", "params": {**params, "threshold": value}}
        add_entry(weights_home(), name, {}, noted)

    def own(name, value):
        return component(tmp_path, value, name).params

    assert own("a", "") == own("a", "0.5") == usual.params
    assert own("a", "0.7") == own("b", "") == own("b", "0.7") == {**usual.params, "threshold": 0.7}
    with pytest.raises(PlanError, match=r"is 0.5, but the weights 'b' have threshold = 0.7"):
        own("b", "0.5")
    before = replace(usual, params={**usual.params, "threshold": 0.5})  # as runs have it
    assert list(component_problems("target", before)) == []
