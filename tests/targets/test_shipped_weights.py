"""The weights that come along are what their manifest says, and worth attacking."""

import pytest
import torch

from bench import registry
from bench.data import open_dataset
from bench.training import measure
from bench.weights import load_into, module_folder, read_manifest, read_state
from targets.recipes.skipnet import SkipNetRecipe

SHIPPED = read_manifest(module_folder("targets.weights"))
GATED = sorted(name for name, entry in SHIPPED.items() if entry.target == "skipnet")


def built(entry):
    target = registry.load("target", entry.target)(**entry.params)
    load_into(target, read_state(entry), entry.name)
    return target.eval()


def test_the_promised_sets_are_there():
    assert {"skipnet-20-budget@digits-m", "skipnet-20-hrl@digits-m", "resnet-20-static@digits-m"} <= set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_manifest_says_what_is_measured(name):
    entry = SHIPPED[name]
    assert entry.licence == "MIT"
    assert entry.stage in SkipNetRecipe.stages
    found = measure(built(entry), open_dataset("digits-m:test"))
    assert found.ceiling == entry.ceiling
    # another machine's last bit may tip an image or a gate of the 500
    assert found.accuracy == pytest.approx(entry.accuracy, abs=2.5 / 500)
    assert found.clean_saving == pytest.approx(entry.clean_saving, abs=2e-3)
    assert found.spread == pytest.approx(entry.spread, abs=2e-3)
    assert found.opening_rates == pytest.approx(entry.opening_rates, abs=2.5 / 500)


@pytest.mark.parametrize("name", GATED)
def test_they_are_worth_attacking(name):
    entry = SHIPPED[name]
    assert entry.static_accuracy == SHIPPED["resnet-20-static@digits-m"].accuracy
    assert entry.accuracy >= entry.static_accuracy - 0.02
    assert entry.clean_saving >= 0.15
    assert entry.spread >= 0.03
    assert entry.gates_varying == sum(0.05 < rate < 0.95 for rate in entry.opening_rates) >= 3


@pytest.mark.parametrize("name", GATED)
def test_execution_of_real_images_agrees(name):
    target, data = built(SHIPPED[name]), open_dataset("digits-m:test")
    images = data.images(range(8)).float() / 255
    with torch.no_grad():
        together = target(images)
        for row in range(8):
            alone = target.execute(images[row : row + 1])
            torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=1e-3, atol=1e-4)
            near = together.margins[row].abs() < 1e-5
            assert bool(((alone.decisions[0] == together.decisions[row]) | near).all())
