import pytest
import torch
from torch import nn

from bench.evaluation.masking import gradients
from bench.results import flags
from bench.store.target import GradientCounts, Yardstick
from bench.testing import ToyTarget, sample_images


def frozen(target):
    return target.eval().requires_grad_(False)


def test_a_healthy_target_raises_no_flag():
    found = gradients(frozen(ToyTarget()), sample_images((3, 8, 8)))
    assert found.images > 0
    assert flags.of_gradients(found) == []


def test_gates_without_a_gradient_are_flagged():
    class Detached(ToyTarget):
        def forward(self, images, decisions=None):
            return super().forward(images.detach(), decisions)

    found = gradients(frozen(Detached()), sample_images((3, 8, 8)))
    assert found.zero == found.images > 0
    assert flags.of_gradients(found) == ["zero-gradient"]


def test_saturated_gates_are_flagged():
    target = ToyTarget()
    for gate in target.gates:
        nn.init.constant_(gate.bias, -50.0)
    found = gradients(frozen(target), sample_images((3, 8, 8)))
    assert found.saturated == found.images == 6
    assert "saturated-gates" in flags.of_gradients(found)


def test_a_target_with_nothing_to_skip_is_asked_nothing():
    target = frozen(ToyTarget())
    with torch.no_grad():
        for gate in target.gates:
            gate.bias.fill_(50.0)
    none = GradientCounts(0, 0, 0, 0, 0, hard_masks=False)
    assert gradients(target, sample_images((3, 8, 8))) == none


def trace(*points):
    return [{"evaluations": at, "macs": macs} for at, macs in points]


def test_still_rising_by_hand():
    """Reserve 100 each, budget 100.

    Image 1 gains 3 of its 10 after evaluation 50, image 2 nothing.
    """
    first, second = trace((10, 507), (80, 510)), trace((10, 505))
    assert flags.is_still_rising([first, second], [500, 500], [100, 100], 600), (
        "3 of 200 is 1.5 points"
    )
    assert not flags.is_still_rising([second, second], [500, 500], [100, 100], 600)
    assert not flags.is_still_rising([trace((50, 560))], [500], [100], 600), (
        "half of the budget counts as the first half"
    )
    assert flags.is_still_rising([trace((51, 560))], [500], [100], 600)
    assert not flags.is_still_rising([trace((99, 600))], [600], [100], 600), (
        "nothing was left to win"
    )
    assert not flags.is_still_rising([[]], [500], [100], 600)


def test_half_of_what_was_spent_counts_and_who_arrived_needs_no_more():
    """Eight steps that stop at a quarter of the budget are as little converged as any; at the
    ceiling nothing is left to win."""
    assert flags.is_still_rising([trace((5, 510), (20, 540))], [500], [30], 600)
    assert not flags.is_still_rising([trace((5, 510), (20, 600))], [500], [30], 600)


YARDSTICK = Yardstick(25, 75, (90, 80, 70, 90))


@pytest.mark.parametrize(
    ("macs", "budget", "stuck"),
    [
        pytest.param([50, 50, 40, 50], 150, True, id="behind"),
        pytest.param([90, 80, 70, 90], 150, False, id="level"),
        pytest.param([95, 90, 80, 95], 150, False, id="ahead"),
        pytest.param([50, 50, 40, 50], 74, False, id="given-less"),
        pytest.param([89, 79, 69, 89], 150, False, id="under-two-points"),
        pytest.param([50, 90, 80, 98], 150, False, id="one-image-alone"),
    ],
)
def test_an_attack_behind_the_yardstick_is_stuck(macs, budget, stuck):
    assert flags.is_stuck(macs, [20, 20, 20, 20], YARDSTICK, 120, budget) is stuck


def test_without_a_yardstick_nothing_is_stuck():
    assert not flags.is_stuck([50, 50], [20, 20], Yardstick(), 120, 150)
    assert not flags.is_stuck([50, 50], [120, 120], YARDSTICK, 120, 150)
