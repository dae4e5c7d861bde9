"""The harness's short attack against a one-image version, and where it says nothing."""

import math
from fractions import Fraction

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, frozen, pictures

from bench.api import Threat
from bench.evaluation import yardstick
from bench.image import project, settle, to_float, to_grid
from bench.store.target import Yardstick

L2 = Threat("l2", Fraction(1, 2))


def slowly(target, image, threat):
    """The most MACs that one image executes on the way."""
    values, bound = image.numel(), threat.bound(image.numel())
    reach = bound / 255 if threat.norm == "linf" else (bound / values) ** 0.5 / 255
    cost = target.units.cost.tolist()
    x = before = image[None]
    most = -1
    for k in range(25):
        inputs = to_float(settle(x, to_grid(image[None]), threat)).requires_grad_()
        output = target(inputs)
        most = max(most, int(target.macs(output.decisions)))
        loss = sum(
            c / sum(cost) * torch.log(1 + torch.relu(0.0005 - m) / 0.001)
            for c, m in zip(cost, output.logit_margins[0], strict=True)
        )
        (gradient,) = torch.autograd.grad(loss, inputs)
        eta = (0.02 + 0.48 * (1 + math.cos(math.pi * k / 24)) / 2) * reach
        if threat.norm == "linf":
            unit = gradient.sign()
        else:
            unit = gradient * values**0.5 / max(float(gradient.norm()), 1e-30)
        z = project(x - eta * unit, image[None], threat)
        x, before = (
            project(x + 0.75 * (z - x) + 0.25 * (x - before), image[None], threat),
            x,
        )
    return most


@pytest.mark.parametrize("threat", [pytest.param(t, id=t.norm) for t in (PSNR35, L2, LINF8)])
def test_the_yardstick_image_by_image(threat):
    target, images = frozen(ConvGates()), pictures(4)
    found = yardstick.measure(target, images, threat)
    slow = [slowly(target, image, threat) for image in images]
    assert found.steps == 25
    assert found.cost == 75
    assert list(found.macs) == slow
    assert sum(slow) > int(target.macs(target(images).decisions).sum())


@pytest.mark.parametrize(
    ("units", "threat"),
    [
        pytest.param(0, PSNR35, id="no-units"),
        pytest.param(6, NONE, id="no-ball"),
        pytest.param(6, Threat("patch", Fraction(4)), id="patch"),
    ],
)
def test_it_says_nothing_without_units_or_a_ball(units, threat):
    assert yardstick.measure(frozen(ConvGates(units=units)), pictures(2), threat) == Yardstick()


def test_it_leaves_the_images_alone():
    target, images = frozen(ConvGates()), pictures(2)
    before = images.clone()
    yardstick.measure(target, images, PSNR35)
    assert torch.equal(images, before)
    assert not images.requires_grad
