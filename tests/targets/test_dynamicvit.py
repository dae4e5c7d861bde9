"""DynamicViT: predictors and masks by hand, costs as integers, and the control that no image
moves."""

import pytest
import torch
from gated_networks import natural
from gated_tokens import dropping, fixed

from bench.errors import PlanError
from bench.evaluation.cost import audit
from bench.testing import check_target, problems
from targets.dynamicvit import DynamicViT, FixedTokens
from targets.vit.transformer import run_block

STAGES, PATCHES = 3, 64


def maps(values):
    """(N, stages, P) of (N, U)."""
    return values.view(len(values), STAGES, PATCHES)


def test_it_keeps_the_contract_of_targets():
    target = dropping()
    kept = maps(target(natural(8)).decisions).double().mean((0, 2))
    assert float(kept[0]) < 0.9
    assert float(kept[2]) > 0
    assert not problems(check_target(target, natural(6)))


def test_the_control_keeps_it_too_and_costs_the_same_on_every_image():
    target = fixed()
    output = target(natural(8))
    assert maps(output.decisions).sum(2).tolist() == [[44, 31, 21]] * 8
    assert target.floor == target.ceiling
    assert target.macs(output.decisions).tolist() == [target.ceiling] * 8
    assert len({tuple(row) for row in output.decisions.tolist()}) > 1, "which ones does vary"
    assert not problems(check_target(target, natural(6)))


def test_costs_by_hand():
    """Six blocks, stages in front of blocks 1, 3 and 4; a predictor costs 1.625 D^2 weights and
    1.75 D + 2 biases, and D/2 weights of its last layer, for each token in front of it."""
    target, width = dropping(), 32

    def block(n):
        return n * (8 * width * width + 7 * width) + 2 * n * n * width

    layers = [(32, 32), (32, 16), (16, 8), (8, 2)]
    predictor = sum(inputs * outputs + outputs for inputs, outputs in layers)
    stem = 16 * 16 * 16 * 27 + 8 * 8 * 32 * (16 * 9) + 8 * 8 * (32 * 32 + 32)
    kept = (40, 9, 0)
    decisions = torch.zeros(1, STAGES, PATCHES, dtype=torch.bool)
    for stage, count in enumerate(kept):
        decisions[0, stage, :count] = True
    expected = stem + 10 * width + 10
    expected += block(65) + 2 * block(41) + block(10) + 2 * block(1)
    expected += (64 + 40 + 9) * predictor
    assert target.macs(decisions.flatten(1)).tolist() == [expected]
    assert audit(target, natural(1), decisions.flatten(1)).macs == expected
    assert int(target.units.cost[0]) == 2 * (8 * 1024 + 7 * 32 + 2 * 65 * 32) + predictor


def test_the_predictor_by_hand():
    """Half of a token's features are its own, half the mean of the tokens that are left."""
    predictor = DynamicViT().score_predictor[0].double()
    x = torch.rand((2, 5, 32), dtype=torch.float64)
    left = torch.tensor([[True, True, False, True, False], [True] * 5])
    found = predictor(x, left)
    for image in range(2):
        inner = predictor.in_conv(x[image, left[image]])
        mean = inner[:, 16:].mean(0)
        for place, token in zip(left[image].nonzero().flatten().tolist(), inner, strict=True):
            expected = predictor.out_conv(torch.cat([token[:16], mean]))
            torch.testing.assert_close(found[image, place], expected)
    torch.testing.assert_close(found[1:], predictor(x[1:]))
    assert bool(predictor(x, torch.zeros_like(left)).isfinite().all())


def test_a_token_is_kept_above_the_threshold_and_not_at_it():
    target, images = dropping(), natural(4)
    output = target(images)
    chance = maps(output.margins) + 0.5
    assert torch.equal(maps(output.decisions)[:, 0], chance[:, 0] > 0.5)
    odds = torch.log(chance / (1 - chance))
    torch.testing.assert_close(maps(output.logit_margins), odds, rtol=1e-3, atol=1e-4)
    margin, logit_margin = target.keep(0, torch.full((1, 2, 2), 0.5).log(), torch.ones(1, 2) > 0)
    assert margin.tolist() == logit_margin.tolist() == [[0.0, 0.0]]
    assert not bool(target.units.wanted(torch.zeros(1, len(target.units))).any())


def test_a_higher_threshold_keeps_fewer():
    images = natural(4)
    counts = [
        int(maps(dropping(threshold=threshold)(images).decisions)[:, 0].sum())
        for threshold in (0.3, 0.5, 0.7)
    ]
    assert counts[0] > counts[1] > counts[2]


def test_straight_through_masks_pass_the_gradient_of_what_a_token_would_add():
    """d/dp of attention: a dropped token's gradient is that of its share (0 without the mask)."""
    target = dropping()
    x = torch.rand((1, 65, 32), dtype=torch.float32)
    keep = torch.rand(1, 65) < 0.6
    keep[:, 0] = True
    mask = keep.float().requires_grad_()
    block = target.net.blocks[2]
    hard = run_block(block, x, keep, None)
    soft = run_block(block, x, keep, mask)
    torch.testing.assert_close(soft, hard, rtol=1e-5, atol=1e-5)
    (slope,) = torch.autograd.grad(soft[0, 0].square().sum(), mask)
    place = int((~keep[0]).nonzero()[0])
    step = 1e-2
    moved = keep.float()
    moved[0, place] += step
    nudged = run_block(block, x, keep, moved)[0, 0].square().sum()
    expected = (float(nudged) - float(hard[0, 0].square().sum())) / step
    assert float(slope[0, place]) == pytest.approx(expected, rel=5e-2, abs=1e-3)


def test_masks_reach_the_margins_of_later_stages():
    target, images = dropping(), natural(2)
    grads = {}
    for how in ("ste", "none"):
        with target.evaluating(mask_grad=how):
            inputs = images.clone().requires_grad_()
            last = maps(target(inputs).logit_margins)[:, 2].sum()
            (grads[how],) = torch.autograd.grad(last, inputs)
    assert not torch.equal(grads["ste"], grads["none"])


def test_nothing_left_but_the_class_token_still_answers():
    target, images = dropping(), natural(1)
    nothing = torch.zeros(1, len(target.units), dtype=torch.bool)
    output = target.execute(images, nothing)
    assert bool(output.logits.isfinite().all())
    torch.testing.assert_close(output.logits, target(images, nothing).logits, rtol=1e-4, atol=1e-4)


def test_of_equal_tokens_the_first_win():
    target = fixed()
    scores = torch.zeros(1, PATCHES, 2)
    margin, _ = target.keep(0, scores, torch.ones(1, PATCHES) > 0)
    assert (margin > 0).nonzero()[:, 1].tolist() == list(range(44))


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        (DynamicViT, {"threshold": 1.0}, "probability"),
        (DynamicViT, {"backbone": "vit-32x3"}, "at least 4 blocks"),
        (FixedTokens, {"ratio": 0.0}, "share of the tokens"),
    ],
    ids=["threshold", "depth", "ratio"],
)
def test_what_it_cannot_be_is_refused(kind, parameters, message):
    with pytest.raises(PlanError, match=message):
        kind(**parameters)
