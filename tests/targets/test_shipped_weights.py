"""The weights that come along are what their manifest says, and worth attacking."""

import os
from pathlib import Path

import pytest
import torch
from gated_networks import natural

from bench.datasets.base import open_dataset
from bench.errors import DataError
from bench.plugins import registry
from bench.training.evaluate import measure
from bench.weights import NotInstalled, load_entry, module_folder, read_manifest, read_record

SHIPPED = read_manifest(module_folder("targets.weights"))
DYNAMIC = sorted(
    name for name, entry in SHIPPED.items() if entry.opening_rates and entry.target != "fbs"
)
CONTROLS = sorted(name for name, entry in SHIPPED.items() if entry.target == "fbs")
IMPORTED = sorted(name for name, entry in SHIPPED.items() if entry.recipe == "imported")
ACCURACY_GIVEN_UP = {"digits-m": 0.02, "cifar10-jpeg": 0.015, "imagenette": 0.025}
LEAST_SAVED = {"imagenette": 0.2}
LEAST_SAVED_BY = {"skipnet": 0.15, "aig": 0.2}
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
        "cascade-resnet-20-20-32",
        "vit-32x6-p8-static",
        "avit-32x6-p8-avit",
        "aig-20-aig",
        "dynconv-20-dynconv",
    ],
    "cifar10-jpeg": [
        "skipnet-38-budget",
        "skipnet-38-hrl",
        "sact-20-sact",
        "manidp-20-dynamic",
        "sdn-resnet-20-joint",
        "fbs-20-fbs",
    ],
    "imagenette": [
        "sdn-tf-efficientnet-lite0-static",
        "sdn-tf-efficientnet-lite0-ic-only",
        "cascade-tf-efficientnet-lite0-160-224",
    ],
}


def built(entry):
    params = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in entry.params.items()
    }
    target = registry.load("target", entry.target)(**params)
    try:
        load_entry(target, entry)
    except NotInstalled as error:
        pytest.skip(f"{error.message}; {error.hint}")
    return target.eval()


def opened(name):
    """The test images that weights were measured on, where this machine has them; those of
    Imagenette lie in the folder that GATEBENCH_IMAGENETTE names."""
    folder = os.environ.get("GATEBENCH_IMAGENETTE")
    try:
        if name == "imagenette":
            return open_dataset("imagenette:val", Path(folder) if folder else None)
        return open_dataset(f"{'cifar10' if name == 'cifar10-jpeg' else name}:test")
    except DataError as error:
        pytest.skip(f"{name}: {error.message}")


@pytest.mark.parametrize("dataset", ZOO)
def test_the_promised_sets_are_there(dataset):
    assert {f"{name}@{dataset}" for name in ZOO[dataset]} <= set(SHIPPED)


OTHERS = pytest.mark.slow  # one network of each kind of unit is quick
MEASURED = {"skipnet", "sact", "manidp", "sdn"}


def one_of_each():
    """All names; those are quick that are the first of such a family on a data set."""
    seen = set()
    for name in sorted(SHIPPED):
        kind = (SHIPPED[name].target, SHIPPED[name].dataset)
        quick = kind[0] in MEASURED and kind not in seen
        yield pytest.param(name, id=name, marks=() if quick else OTHERS)
        seen.add(kind)


@pytest.mark.parametrize("name", list(one_of_each()))
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
    if name in IMPORTED:
        pytest.skip("trained by others; the parts are what its own test looks at")
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


@pytest.mark.parametrize("name", IMPORTED)
def test_what_others_trained_is_named_with_its_licence_and_stays_where_it_is(name):
    entry = SHIPPED[name]
    assert entry.licence == "Apache-2.0"
    assert [part.licence for part in entry.parts] == ["Apache-2.0"]
    assert entry.parts[0].install == "gatebench[imagenet]"
    assert entry.bytes < 1000
    assert entry.accuracy == entry.static_accuracy
    assert built(entry).ceiling == entry.ceiling


@pytest.mark.parametrize("name", DYNAMIC)
def test_they_are_worth_attacking(name):
    entry = SHIPPED[name]
    price = PRICE_OF_DEFENSE if entry.stage == "adversarial" else 0.0
    assert entry.accuracy >= entry.static_accuracy - ACCURACY_GIVEN_UP[entry.dataset] - price
    assert entry.clean_saving >= LEAST_SAVED.get(
        entry.dataset, LEAST_SAVED_BY.get(entry.target, 0.25)
    )
    assert entry.spread >= 0.03
    assert entry.gates_varying >= min(3, len(entry.opening_rates))


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
    target = built(SHIPPED[name])
    side = target.image_shape[1]
    images = (
        open_dataset("digits-m:test").images(range(8)).float() / 255
        if side == 32
        else natural(8, side)
    )
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
