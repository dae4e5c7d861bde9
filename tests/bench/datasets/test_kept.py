"""A run begins with what `plugin test` promises of a data set, and stays with its images."""

import os

import numpy as np
import pytest
import torch

from bench.contracts.dataset import Dataset
from bench.datasets.base import subset_digest, subset_digests
from bench.datasets.promises import check_declared, check_pixels, check_rows
from bench.errors import ContractBroken
from bench.evaluation.prepare import padded_batch

CALLS = []


class Honest(Dataset):
    """Twelve random pictures."""

    splits = ("test",)
    name, split, classes = "honest", "test", ("a", "b", "c", "d")
    image_shape = (3, 8, 8)

    def __init__(self, split="test", root=None):
        self.held = np.random.default_rng(0).integers(0, 256, (12, 3, 8, 8)).astype("uint8")
        self.label_array = np.arange(12) % 4
        self.ids = tuple(f"test-{i}" for i in range(12))

    def pixels(self, indices):
        return self.held[list(indices)]


class Drawn(Honest):
    def pixels(self, indices):
        return np.random.default_rng().integers(0, 256, (len(indices), 3, 8, 8)).astype("uint8")


class Drifting(Honest):
    def pixels(self, indices):
        CALLS.append(1)
        return (super().pixels(indices) + len(CALLS)).astype("uint8")


class Sorted(Honest):
    def pixels(self, indices):
        return self.held[sorted(indices)]


class Floats(Honest):
    def pixels(self, indices):
        return super().pixels(indices) / np.float32(255)


class Fewer(Honest):
    def pixels(self, indices):
        return super().pixels(indices)[:-1]


class Inverted(Honest):
    def images(self, indices):
        return 255 - super().images(indices)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        pytest.param(Drawn, "differ from one call to the next", id="drawn-anew"),
        pytest.param(Drifting, "differ from one call to the next", id="drifting"),
        pytest.param(Sorted, "does not follow the order", id="sorted"),
        pytest.param(Floats, r"pixels are float32 of shape \(9, 3, 8, 8\)", id="floats"),
        pytest.param(Fewer, r"of shape \(8, 3, 8, 8\), expected \(9, 3", id="fewer"),
        pytest.param(Inverted, "it has images of its own", id="other-images"),
    ],
)
def test_a_data_set_that_breaks_a_promise_is_refused_by_name(kind, said):
    for dataset in (Honest(), kind()):
        check_rows(dataset)
    check_declared(Honest())
    check_pixels(Honest())
    check = check_declared if kind is Inverted else check_pixels
    dataset = kind()
    with pytest.raises(ContractBroken, match=said) as caught:
        check(dataset)
    assert caught.value.message.startswith("honest:test: ")


def test_digests_of_images_come_with_that_of_the_subset():
    dataset = Honest()
    total, each = subset_digests(dataset, [3, 1, 2])
    assert total == subset_digest(dataset, [3, 1, 2])
    assert len(set(each)) == 3
    dataset.held[1] += 1
    other = subset_digests(dataset, [3, 1, 2])[1]
    assert [mine == theirs for mine, theirs in zip(each, other, strict=True)] == [True, False, True]


PLUGIN = """
import os

import torch

from test_kept import Honest

class ByProcess(Honest):
    def pixels(self, indices):
        return (super().pixels(indices) + (os.getpid() != PARENT)).astype("uint8")

class FitByProcess(Honest):
    splits = ("train", "test")

    def __init__(self, split, root):
        super().__init__()
        self.split = split
        self.held = self.held + (split == "train")

    def pixels(self, indices):
        other = self.split == "train" and os.getpid() != PARENT
        return (super().pixels(indices) + other).astype("uint8")

class Untidy(Honest):
    def __init__(self, split, root):
        super().__init__()
        self.leave()

    def pixels(self, indices):
        self.leave()
        return super().pixels(indices)

    def leave(self):
        if os.getpid() != PARENT:
            torch.set_default_dtype(torch.float64)
"""

PLAN = """
[protocol]
dataset = "{use}:test"
images = 4
batch = 4
threat = {{ norm = "linf", eps = "8/255" }}
budget = 5
[run]
device = "cpu"
workers = 1
[[target]]
use = "toy"
weights = "random:0"
[[attack]]
use = "identity"
"""


@pytest.fixture
def pictures(tmp_path, monkeypatch, plugins):
    from bench.plugins import registry

    info = tmp_path / "pictures-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pictures\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[gatebench.datasets]\nby-process = pictures:ByProcess\nuntidy = pictures:Untidy\n"
        "fit-by-process = pictures:FitByProcess\n"
    )
    (tmp_path / "pictures.py").write_text(PLUGIN.replace("PARENT", str(os.getpid())))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(os.path.dirname(__file__))
    registry.providers.cache_clear()


@pytest.mark.parametrize(
    ("use", "code", "said"),
    [
        pytest.param("by-process", 4, "is another one than when the run began", id="by-process"),
        pytest.param("untidy", 0, "", id="leaves-state-behind"),
    ],
)
def test_workers_compute_on_the_images_of_the_plan(gatebench, pictures, tmp_path, use, code, said):
    (tmp_path / "plan.toml").write_text(PLAN.format(use=use))
    found, _, err = gatebench("run", "plan.toml", "--name", "r", "--no-report")
    assert found == code, err
    assert said in err


def test_workers_learn_from_the_images_of_the_plan(gatebench, pictures, tmp_path):
    """What a defense or an attack learns from is held to the plan too."""
    for learner in ('[[defense]]\nuse = "cap"\n', '[[attack]]\nuse = "universal"\n'):
        plan = PLAN.format(use="fit-by-process") + learner
        (tmp_path / "plan.toml").write_text(plan.replace("budget", "fit = { images = 4 }\nbudget"))
        found, _, err = gatebench("run", "plan.toml", "--name", learner[2:5], "--no-report")
        assert found == 4, err
        assert (
            "the images of honest:train that are learned from are others than when the run" in err
        )


def test_what_a_data_set_leaves_behind_is_put_back_before_its_images_are_used():
    class Mixed(Honest):
        def pixels(self, indices):
            torch.autocast("cpu", torch.bfloat16).__enter__()
            return super().pixels(indices)

    clean, _ = padded_batch(Mixed(), [3, 1, 2], 0, 4)
    assert not torch.is_autocast_enabled("cpu")
    assert torch.equal(clean, Honest().images([3, 1, 2, 3]))
