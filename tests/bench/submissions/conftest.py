"""A board of a toy, and images that beat everything on it."""

import shutil

import pytest
import torch
from mischief_site import finished_run

from bench.datasets.base import open_dataset, subset
from bench.image import to_float
from bench.store.folder import RunFolder
from bench.testing.toy import ToyTarget

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 32
batch = 16
threat = { norm = "linf", eps = "64/255" }
budget = 3
[run]
device = "cpu"
shard = 16
[[target]]
use = "toy"
weights = "random:0"
label = "toy"
[[attack]]
use = "still"
[[attack]]
use = "wander"
[[attack]]
use = "autoenergy"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished run."""
    with finished_run(tmp_path_factory.mktemp("board"), PLAN, name="board") as run:
        yield run


@pytest.fixture
def board(made, gatebench, tmp_path):
    """A copy of it, runs/board."""
    (tmp_path / "plan.toml").write_text(PLAN)
    return RunFolder(shutil.copytree(made, tmp_path / "runs" / "board"))


@pytest.fixture(scope="module")
def stronger(made):
    """id -> (H, W, 3) array: images that a search of many steps found, inside the threat."""
    dataset = open_dataset("toy-pixels:test")
    chosen = subset(dataset, 32)
    clean8 = dataset.images(chosen)
    target, clean = ToyTarget(seed=0).eval(), to_float(clean8)
    best, most = clean8.clone(), target(clean).decisions.sum(1)
    x = clean.clone()
    for _ in range(60):
        x.requires_grad_()
        margins = target(x).margins
        (gradient,) = torch.autograd.grad(margins.clamp(max=0.02).sum(), x)
        x = clean + (x.detach() + 0.03 * gradient.sign() - clean).clamp(-64 / 255, 64 / 255)
        saved = (255 * x.clamp(0, 1)).round().to(torch.uint8)
        count = target(to_float(saved)).decisions.sum(1)
        better = count > most
        best[better], most[better] = saved[better], count[better]
        x = x.clamp(0, 1)
    return {
        dataset.ids[place]: image.permute(1, 2, 0).contiguous().numpy()
        for place, image in zip(chosen, best, strict=True)
    }
