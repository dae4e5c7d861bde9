"""What is refused before anything is computed: fits on scored images, classes that disagree."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.errors import PlanError
from bench.evaluation.prepare import open_cell
from bench.plans.resolve import load_plan
from bench.results import flags
from bench.runs.layout import lay_out
from bench.store.target import (
    DatasetWords,
    FloatNoise,
    GradientCounts,
    TargetDescription,
    UnitColumns,
)

PLAN = """
schema = 1
[protocol]
dataset = "imagefolder:val"
images = 2
batch = 2
threat = {{ norm = "linf", eps = "8/255" }}
budget = 3
fit = {{ split = "train", images = 2, budget = 2 }}
[[target]]
use = "skipnet"
params = {{ depth = 18, layout = "imagenet"{more} }}
weights = "random:0"
[[attack]]
use = "{attack}"
"""


def put(folder, seeds, class_name="cat"):
    (folder / class_name).mkdir(parents=True)
    for seed in seeds:
        pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / class_name / f"{folder.name}{seed}.png")


def laid(tmp_path, attack="universal", more=", num_classes = 1"):
    (tmp_path / "plan.toml").write_text(PLAN.format(attack=attack, more=more))
    plan = load_plan(tmp_path / "plan.toml")
    return lay_out(plan, tmp_path / "runs", "r", "gatebench run", str(tmp_path / "data"))


def test_a_fit_on_scored_images_is_refused_by_content(tmp_path):
    put(tmp_path / "data" / "val", (1, 2))
    put(tmp_path / "data" / "train", (2, 3))
    with pytest.raises(PlanError, match="1 of the 2 images are scored too: cat/train2 is cat/val2"):
        laid(tmp_path)
    assert not (tmp_path / "runs" / "r").exists()
    assert laid(tmp_path, "identity").cells, "where nothing fits, nothing is compared"


def test_a_data_set_without_split_folders_cannot_be_fitted_on(tmp_path):
    put(tmp_path / "data", (1, 2))
    with pytest.raises(PlanError, match="2 of the 2 images are scored too"):
        laid(tmp_path)


def test_classes_of_network_and_data_must_agree(tmp_path):
    put(tmp_path / "data" / "val", (1, 2))
    with pytest.raises(PlanError, match="tells 1000 classes apart, imagefolder:val has 1"):
        laid(tmp_path, "identity", ", num_classes = 1000")
    (tmp_path / "data" / "classes.txt").write_text("\n".join(["dog", "cat", *list("abc")]))
    with pytest.raises(PlanError, match="tells 1 classes apart, imagefolder:val has 5"):
        laid(tmp_path, "identity")
    assert laid(tmp_path, "identity", ", num_classes = 5").cells


def test_classes_that_the_plan_leaves_to_the_network_are_compared_when_it_is_built(tmp_path):
    import torch

    put(tmp_path / "data" / "val", (1, 2))
    cells = laid(tmp_path, "identity", "").cells
    with pytest.raises(PlanError, match="tells 1000 classes apart"):
        open_cell(next(iter(cells.values())), torch.device("cpu"), str(tmp_path / "data"))


def test_weights_of_another_data_set_carry_a_flag():
    described = TargetDescription(
        floor=1,
        ceiling=2,
        reference=2,
        bound=2,
        draws=1,
        noise=FloatNoise(0.0, 0.0),
        classes=(),
        dataset=DatasetWords("cifar10-jpeg:test", "", ()),
        control=False,
        units=UnitColumns((), (), (), (), (), ()),
        gradients=GradientCounts(0, 0, 0, 0, 0, False),
        trained_on="cifar10",
    )
    assert flags.of_target(described) == ["trained-elsewhere"]
    other = replace(described, trained_on="cifar10-jpeg (other classes)")
    assert flags.of_target(other) == ["trained-elsewhere"]
    for trained_on in ("cifar10-jpeg", ""):
        assert flags.of_target(replace(described, trained_on=trained_on)) == []
