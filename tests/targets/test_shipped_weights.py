"""The weights that come along are what their manifest says, and worth attacking."""

import pytest
import torch

from bench.datasets.base import open_dataset
from bench.errors import DataError
from bench.plugins import registry
from bench.training.evaluate import measure
from bench.weights import load_into, module_folder, read_manifest, read_record, read_state

SHIPPED = read_manifest(module_folder("targets.weights"))
DYNAMIC = sorted(
    name for name, entry in SHIPPED.items() if entry.opening_rates and entry.target != "fbs"
)
CONTROLS = sorted(name for name, entry in SHIPPED.items() if entry.target == "fbs")
ACCURACY_GIVEN_UP = {"digits-m": 0.02, "cifar10-jpeg": 0.015}
PRICE_OF_DEFENSE = 0.02
"""Accuracy that energy-adversarial training may cost on top."""
UNRECORDED = {"resnet-20-static@digits-m", "skipnet-20-budget@digits-m", "skipnet-20-hrl@digits-m"}
"""Trained before curves were recorded."""
ZOO = {
    "digits-m": [
        "skipnet-20-budget",
        "skipnet-20-hrl",
        "sact-20-sact",
        "manidp-20-dynamic",
        "sdn-resnet-20-joint",
        "fbs-20-fbs",
    ],
    "cifar10-jpeg": [
        "skipnet-38-budget",
        "skipnet-38-hrl",
        "sact-20-sact",
        "manidp-20-dynamic",
        "sdn-resnet-20-joint",
        "fbs-20-fbs",
    ],
}


def built(entry):
    target = registry.load("target", entry.target)(**entry.params)
    load_into(target, read_state(entry), entry.name)
    return target.eval()


def opened(name):
    """The test images that weights were measured on, where this machine has them."""
    try:
        return open_dataset(f"{'cifar10' if name == 'cifar10-jpeg' else name}:test")
    except DataError as error:
        pytest.skip(f"{name}: {error.message}")


@pytest.mark.parametrize("dataset", ZOO)
def test_the_promised_sets_are_there(dataset):
    assert {f"{name}@{dataset}" for name in ZOO[dataset]} <= set(SHIPPED)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_manifest_says_what_is_measured(name):
    entry = SHIPPED[name]
    data = opened(entry.dataset)
    if data.name != entry.dataset:
        pytest.skip(f"measured on {entry.dataset}, here is {data.name}")
    found = measure(built(entry), data)
    some = 2.5 / len(data)  # another machine's last bit may tip an image or a gate
    assert found.ceiling == entry.ceiling
    assert found.accuracy == pytest.approx(entry.accuracy, abs=some)
    assert found.clean_saving == pytest.approx(entry.clean_saving, abs=2e-3)
    assert found.spread == pytest.approx(entry.spread, abs=2e-3)
    assert found.opening_rates == pytest.approx(entry.opening_rates, abs=some)


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_the_manifest_fits_network_recipe_and_record(name):
    entry = SHIPPED[name]
    assert entry.licence == "MIT"
    assert entry.stage in registry.load("recipe", entry.recipe).stages
    target = built(entry)
    assert target.ceiling == entry.ceiling
    record = read_record(entry)
    assert all(len(curve) == entry.epochs for curve in record["curves"].values())
    assert record["curves"] or name in UNRECORDED
    assert len(record["rates"]) == len(target.units)
    means, start = [], 0
    for *_, count in record["owners"]:
        means.append(sum(record["rates"][start : start + count]) / count)
        start += count
    assert means == pytest.approx(entry.opening_rates, abs=1e-4)
    assert entry.gates_varying == sum(0.05 < rate < 0.95 for rate in record["rates"])


@pytest.mark.parametrize("name", DYNAMIC)
def test_they_are_worth_attacking(name):
    entry = SHIPPED[name]
    price = PRICE_OF_DEFENSE if entry.stage == "adversarial" else 0.0
    assert entry.accuracy >= entry.static_accuracy - ACCURACY_GIVEN_UP[entry.dataset] - price
    assert entry.clean_saving >= (0.15 if entry.target == "skipnet" else 0.25)
    assert entry.spread >= 0.03
    assert entry.gates_varying >= 3


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_spends_the_same_on_every_image(name):
    entry = SHIPPED[name]
    target = built(entry)
    assert target.floor == target.ceiling == entry.ceiling
    assert entry.clean_saving == entry.spread == 0
    assert entry.gates_varying > 0, "which channels win does depend on the image"
    assert entry.accuracy >= entry.static_accuracy - ACCURACY_GIVEN_UP[entry.dataset]


@pytest.mark.parametrize(
    "name", sorted(name for name, entry in SHIPPED.items() if entry.opening_rates)
)
def test_execution_of_real_images_agrees(name):
    target, data = built(SHIPPED[name]), open_dataset("digits-m:test")
    images = data.images(range(8)).float() / 255
    with torch.no_grad():
        together = target(images)
        for row in range(8):
            alone = target.execute(images[row : row + 1])
            near = together.margins[row].abs() < 1e-5
            assert bool(((alone.decisions[0] == together.decisions[row]) | near).all())
            if torch.equal(alone.decisions[0], together.decisions[row]):
                torch.testing.assert_close(
                    alone.logits[0], together.logits[row], rtol=1e-3, atol=1e-3
                )
