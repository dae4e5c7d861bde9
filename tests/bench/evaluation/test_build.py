"""Targets are built with the weights that the plan was resolved with, and no others."""

import pytest
import torch

from bench import weights
from bench.errors import WeightsError
from bench.evaluation.build import build_target
from bench.plans.resolve import resolve_document
from targets.resnet import ResNet


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    return tmp_path / "weights"


def keep(home, seed):
    torch.manual_seed(seed)
    params = {"depth": 8, "num_classes": 10}
    state = ResNet(**params).state_dict()
    return weights.add_entry(home, "mine", state, {"target": "resnet", "params": params})


def component():
    plan = {
        "protocol": {"dataset": "digits-m:test", "threat": "none", "images": 1},
        "target": [{"use": "resnet", "weights": "mine"}],
        "attack": [{"use": "identity"}],
    }
    return resolve_document(plan, "test").cells[0].target


def test_weights_that_were_trained_anew_meanwhile_are_refused(home):
    keep(home, 0)
    planned = component()
    built = build_target(planned).state_dict()
    assert torch.equal(
        built["conv1.weight"], weights.read_state(weights.find("mine"))["conv1.weight"]
    )
    now = keep(home, 1)
    with pytest.raises(
        WeightsError, match="'mine' are others than when the plan was resolved"
    ) as e:
        build_target(planned)
    assert planned.digest[:12] in e.value.message
    assert now.digest[:12] in e.value.message
    build_target(component())
