"""Results of NumPy that come back as something else than floats, and what may be read in Python."""

import numpy as np
import pytest
import torch

from bench.api import Output, Target, Units
from bench.errors import ContractBroken
from bench.evaluation.outside import check_nothing_outside
from bench.testing import sample_images

LEVELS = 256


class Returned(Target):
    """Its logits are what `run` makes of its first 64 pixels."""

    def __init__(self, run):
        super().__init__()
        self.run = run
        self.image_shape, self.classes = (3, 8, 8), 64
        self.units = Units.gated([], [], [])

    def forward(self, images, decisions=None):
        none = torch.zeros(len(images), 0)
        return Output(self.run(images[:, 0].flatten(1)), none, none, none.bool())

    execute = forward

    def macs(self, decisions):
        return torch.zeros(len(decisions), dtype=torch.int64)


def levels(x):
    """Work in NumPy, as whole numbers."""
    found = x.numpy()[0].astype(np.float64)
    return np.clip(np.cumsum(found) * 4, 0, LEVELS - 1).astype(np.int64)


def bits(x):
    planes = [torch.from_numpy(((levels(x) >> k) & 1).astype(bool)) for k in range(8)]
    return sum(plane.float() * 2**k for k, plane in enumerate(planes))[None]


def filled(x):
    found = torch.zeros(1, 64)
    for place, value in enumerate(levels(x)):
        found[0, place].fill_(int(value))
    return found


def few(x):
    """The same few numbers for every image, in another order."""
    found = torch.zeros(1, 64)
    for value in range(LEVELS):
        found = found + float(value) - float(value)
    for place, value in enumerate(levels(x)):
        found[0, place].fill_(float(value))
    return found


def picked(x):
    table = torch.arange(LEVELS).float()
    return torch.stack([table[int(value)] for value in levels(x)])[None]


def offsets(x):
    table = torch.arange(LEVELS).float()
    return torch.cat([table.as_strided((1,), (1,), int(value)) for value in levels(x)])[None]


def sizes(x):
    return torch.stack([torch.ones(int(each) + 1).sum() for each in levels(x)])[None]


def snapped(x):
    """To a table that operators made, so that all values have been there before."""
    table = (torch.arange(LEVELS) + 0 * x.mean()).numpy()
    return torch.from_numpy(table[levels(x)])[None]


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(bits, id="bits"),
        pytest.param(filled, id="whole-numbers"),
        pytest.param(few, id="few-numbers"),
        pytest.param(picked, id="places-in-a-table"),
        pytest.param(offsets, id="offsets"),
        pytest.param(sizes, id="sizes"),
        pytest.param(snapped, id="values-of-a-table"),
    ],
)
def test_numbers_of_any_kind_are_seen(run):
    target, image = Returned(run), sample_images((3, 8, 8))[:1]
    with pytest.raises(ContractBroken, match="numbers that depend on the image"):
        check_nothing_outside(target, image, torch.zeros(1, 0, dtype=torch.bool))


def reread(x):
    return torch.tensor(x.tolist()) + torch.tensor((x[:, ::2] > 0.5).tolist()).sum()


def cut(x):
    """A number of values that depends on the image, and places that were read."""
    bright = x[0].sort()[0][-int((x > 0.5).sum()) - 1 :]
    best = int(x.argmax())
    return x + bright[: len(bright)].mean() + x[:, best] + bright.new_zeros(len(bright)).sum()


def branch(x):
    if float(x.mean()) > 0.5:
        x = (x + 1) * 1.5 + 0.25
    return x.clamp(min=float("-inf")) * float(x.max())


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(reread, id="read-whole"),
        pytest.param(cut, id="sizes-and-places"),
        pytest.param(branch, id="branches"),
    ],
)
def test_what_python_reads_and_hands_back_is_free(run):
    target, image = Returned(run), sample_images((3, 8, 8))[1:2]
    check_nothing_outside(target, image, torch.zeros(1, 0, dtype=torch.bool))
