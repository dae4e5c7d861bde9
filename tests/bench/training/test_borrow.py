"""What a training takes from other weights: found, loaded, and not written again."""

import pytest
import torch

from bench import weights
from bench.errors import WeightsError
from bench.plugins import registry
from bench.training.inputs import borrow, start_digest
from bench.training.results import untouched
from bench.weights.parts import WeightsPart
from targets.cascade import Cascade
from targets.recipes.cascade import CalibrateStage
from targets.resnet import ResNet
from targets.sdn import SDN

TINY = "test_efficientnet"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty home without shipped weights."""
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    real = registry.providers
    monkeypatch.setattr(registry, "providers", lambda kind: () if kind == "weights" else real(kind))
    return tmp_path / "home" / "weights"


def plain_resnet(home, seed=0):
    torch.manual_seed(seed)
    net = ResNet(depth=8)
    facts = {"target": "resnet", "params": {"depth": 8}, "licence": "MIT"}
    return net, weights.add_entry(home, f"resnet-8-{seed}", net.state_dict(), facts)


def stage(*names, **more):
    settings = {"networks": ("resnet-8",) * len(names), "sizes": (16, 32), **more}
    return CalibrateStage(weights=names, **settings)


def test_a_cascade_of_plain_networks_stores_where_they_lie(home):
    first, one = plain_resnet(home, 0)
    second, other = plain_resnet(home, 1)
    parts, state = borrow(stage("resnet-8-0", "resnet-8-1"), 10, home)
    assert [part.prefix for part in parts] == ["networks.0.net.", "networks.1.net."]
    assert [part.sha256 for part in parts] == [one.digest, other.digest]
    target = Cascade(networks=("resnet-8",) * 2, sizes=(16, 32))
    target.load_state_dict({**target.state_dict(), **state})
    assert torch.equal(target.networks[1].net.fc.weight, second.fc.weight)
    kept = untouched(parts, state, target)
    assert kept == parts
    params = {"networks": ["resnet-8", "resnet-8"], "sizes": [16, 32]}
    entry = weights.add_entry(
        home, "both", target.state_dict(), {"target": "cascade", "params": params}, parts=kept
    )
    assert set(weights.read_state(entry)) == {"log_temperatures", "threshold"}
    loaded = Cascade(networks=("resnet-8",) * 2, sizes=(16, 32))
    weights.load_entry(loaded, entry)
    assert torch.equal(loaded.networks[0].net.fc.weight, first.fc.weight)
    with torch.no_grad():
        target.networks[0].net.fc.weight += 1
    assert untouched(parts, state, target) == parts[1:], "what was trained is written"
    assert len(start_digest(None, parts)) == 64
    assert start_digest(one, []) == one.digest
    assert start_digest(None, []) == ""


def test_a_network_inside_another_is_found(home):
    torch.manual_seed(0)
    plain = SDN(backbone=TINY, exits="none", num_classes=10)
    facts = {"target": "sdn", "params": {"backbone": TINY, "exits": "none", "num_classes": 10}}
    weights.add_entry(home, "tiny", plain.state_dict(), facts)
    parts, state = borrow(stage("tiny", networks=(TINY,), sizes=(64, 96)), 10, home)
    assert [part.inside for part in parts] == ["backbone.net."]
    name = "networks.0.net.classifier.weight"
    assert torch.equal(state[name], plain.backbone.net.classifier.weight)


def test_a_part_that_lies_in_a_package_stays_there(home, tmp_path, monkeypatch):
    torch.manual_seed(0)
    plain = SDN(backbone=TINY, exits="none", num_classes=10)
    folder = tmp_path / "site" / "tiny_numbers"
    folder.mkdir(parents=True)
    torch.save(plain.backbone.net.state_dict(), folder / "tiny.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    digest = weights.sources.file_digest(folder / "tiny.pth")
    part = WeightsPart("backbone.net.", "package:tiny_numbers/tiny.pth", digest)
    facts = {"target": "sdn", "params": {"backbone": TINY, "exits": "none", "num_classes": 10}}
    weights.add_entry(home, "tiny", plain.state_dict(), facts, parts=[part])
    parts, _ = borrow(stage("tiny", networks=(TINY,), sizes=(64, 96)), 10, home)
    assert [(one.prefix, one.source, one.sha256) for one in parts] == [
        ("networks.0.net.", "package:tiny_numbers/tiny.pth", digest)
    ]


def test_a_network_of_another_shape_is_refused(home):
    plain_resnet(home)
    with pytest.raises(WeightsError, match=r"hold no network that fits 'networks\.0\.net\.'"):
        borrow(stage("resnet-8-0", networks=("resnet-14",)), 10, home)
