"""ManiDP and FBS: published costs, thresholds, channels that are off, a budget that nothing moves,
and the contract."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from gated_networks import attacked, natural

from bench.api import Moment
from bench.errors import PlanError, WeightsError
from bench.evaluation import cost
from bench.testing import check_target, finite_difference, problems, random_decisions
from bench.weights import load_into
from targets.fbs import FBS
from targets.manidp.network import EVERYTHING, ManiDP, SaliencyBranch
from targets.pieces.channels import Gated
from targets.recipes.fbs import FBSRecipe
from targets.recipes.manidp import DynamicStage, ManiDPRecipe, similarity_gap
from targets.resnet import ResNet


def half_closed(seed=0, **params):
    """A ManiDP whose thresholds close about half of the channels, other ones on other images."""
    torch.manual_seed(seed)
    target = ManiDP(**params).eval()
    with torch.no_grad():
        for branch in target.branches():
            branch.fc2.weight.mul_(10)
            branch.thre.fill_(1.0)
        for module in target.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.mul_(0.5)  # deep networks with fresh weights overflow
    target.read_thresholds()
    return target


# --- published numbers


@pytest.mark.parametrize(
    ("depth", "layout", "published", "digits"),
    [
        (20, "cifar", 40.81e6, 1e4),
        (32, "cifar", 69.12e6, 1e4),
        (56, "cifar", 125.75e6, 1e4),
        (18, "imagenet", 1.81e9, 1e7),
        (34, "imagenet", 3.66e9, 1e7),
    ],
)
def test_published_totals(depth, layout, published, digits):
    with torch.device("meta"):
        target, plain = ManiDP(depth=depth, layout=layout), ResNet(depth=depth, layout=layout)
    branches = sum(
        one.inputs * one.outputs + one.outputs * one.outputs + one.outputs
        for one in target.convolutions
    )
    if layout == "imagenet":  # squeezed by 2 where a convolution has 80 channels or more
        inner = {
            one.name: one.outputs // (2 if one.outputs >= 80 else 1) for one in target.convolutions
        }
        branches = sum(
            one.inputs * inner[one.name] + inner[one.name] * one.outputs + one.outputs
            for one in target.convolutions
        )
    assert target.ceiling == plain.ceiling + branches
    assert abs(plain.ceiling - published) < digits


@pytest.mark.parametrize(
    ("depth", "layout", "kept", "published"),
    [
        (56, "cifar", 0.5, 62.4),
        (56, "cifar", 0.6, 51.9),
        (56, "cifar", 0.65, 46.3),
        (18, "imagenet", 0.6, 49.2),
        (18, "imagenet", 0.55, 54.2),
        (34, "imagenet", 0.55, 55.8),
        (34, "imagenet", 0.6, 50.6),
        (34, "imagenet", 0.65, 45.2),
    ],
)
def test_published_reductions(depth, layout, kept, published):
    with torch.device("meta"):
        target, plain = ManiDP(depth=depth, layout=layout), ResNet(depth=depth, layout=layout)
    decisions = torch.cat(
        [torch.arange(one.outputs) < round(kept * one.outputs) for one in target.convolutions]
    )[None]
    branches = target.ceiling - plain.ceiling
    reduction = 1 - (int(target.macs(decisions)) - branches) / plain.ceiling
    # widths such as 16 cannot be split at 0.55 exactly
    assert 100 * reduction == pytest.approx(
        published, abs=1.2 if layout == "cifar" and kept != 0.5 else 0.35
    )


def test_macs_of_a_few_channels_by_hand():
    target = ManiDP(depth=8)
    off, _ = target.extremes()
    some = off.clone()
    some[0, :3] = True  # three outputs of the first convolution
    some[0, 16:21] = True  # five of the second
    assert int(target.macs(some)) - target.floor == 1024 * 9 * (3 * 16 + 3 * 5)
    alone = off.clone()
    alone[0, 16:21] = True
    assert int(target.macs(alone)) == target.floor, "outputs without inputs cost nothing"
    assert int(target.units.cost[0]) == int(target.units.cost[16]) == 1024 * 9 * 16


# --- the contract

DEEP = pytest.mark.slow  # the same on a deeper network


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: half_closed(depth=8), id="half-closed-8"),
        pytest.param(lambda: half_closed(depth=20, seed=1), marks=DEEP, id="half-closed-20"),
        pytest.param(lambda: FBS(depth=8), id="fbs-8"),
        pytest.param(lambda: FBS(depth=20, density=0.25), marks=DEEP, id="fbs-20-sparse"),
    ],
)
def test_contract(make):
    assert not problems(check_target(make().eval(), natural(4)))


@pytest.mark.parametrize(
    ("kind", "depth", "layout"),
    [
        pytest.param(ManiDP, 56, "cifar", marks=DEEP),
        (ManiDP, 18, "imagenet"),
        pytest.param(ManiDP, 34, "imagenet", marks=DEEP),
        pytest.param(FBS, 18, "imagenet", marks=DEEP),
    ],
)
def test_large_networks_cost_what_they_say(kind, depth, layout):
    target = (
        half_closed(depth=depth, layout=layout)
        if kind is ManiDP
        else FBS(depth=depth, layout=layout).eval()
    )
    images = natural(2, target.image_shape[1])
    with torch.no_grad():
        together = target(images)
    for decisions in (None, random_decisions(target, 1)):
        counted = cost.count(target, images[:1], decisions)
        assert counted.macs == int(target.macs(counted.output.decisions))
    alone = target.execute(images[:1])
    if torch.equal(alone.decisions[0], together.decisions[0]):
        torch.testing.assert_close(
            alone.logits[0],
            together.logits[0],
            rtol=1e-3,
            atol=1e-3 * float(together.logits.abs().max()),
        )
    if kind is ManiDP:
        assert 0.1 < float(together.decisions.float().mean()) < 0.9


# --- ManiDP


def test_fresh_networks_keep_everything():
    target = ManiDP(depth=8).eval()
    output = target(natural(2))
    assert bool(output.decisions.all())
    assert float(target.units.threshold.max()) == EVERYTHING
    torch.testing.assert_close(output.margins, output.logit_margins)


def test_forced_all_on_is_the_network_of_all_scaled_channels():
    target, images = half_closed(depth=8), natural(3)
    x = target.stem(images)
    for number, place in enumerate(target.places):
        block, shortcut = target.get_submodule(place.layer), target.shortcut(place, x)
        first, second = (target.get_submodule(f"{place.layer}_branch{which}") for which in (1, 2))
        y = (
            F.relu(block.bn1(block.conv1(x)))
            * first(F.adaptive_avg_pool2d(x, 1)[:, :, 0, 0]).clamp(0, 1000)[:, :, None, None]
        )
        scale = second(F.adaptive_avg_pool2d(y, 1)[:, :, 0, 0]).clamp(0, 1000)
        x = F.relu(block.bn2(block.conv2(y)) * scale[:, :, None, None] + shortcut)
        assert number < 3
    found = target(images, torch.ones(3, len(target.units), dtype=torch.bool)).logits
    torch.testing.assert_close(found, target.fc(x.mean((2, 3))))


def test_thresholds_are_loaded_with_the_weights():
    target = half_closed(depth=8)
    other = ManiDP(depth=8)
    assert not torch.equal(other.units.threshold, target.units.threshold)
    load_into(other, target.state_dict())
    assert torch.equal(other.units.threshold, target.units.threshold)
    assert torch.equal(
        copy.deepcopy(other).eval()(natural(2)).decisions, target(natural(2)).decisions
    )
    with pytest.raises(WeightsError, match=r"missing: group1_layer0_branch1\.thre"):
        load_into(other, ResNet(depth=8).state_dict())


def test_a_saliency_at_the_threshold_is_kept():
    branch = SaliencyBranch(2, 2, 1)
    target = half_closed(depth=8)
    target.branches()[0].thre.fill_(0.5)
    assert target.keep(0, torch.tensor([[0.5, 0.4999]])).tolist() == [[True, False]]
    branch.add(torch.tensor([[1.0, 3.0], [2.0, 5.0]]))
    branch.set_threshold(0.5)
    assert float(branch.thre) == 4.0
    branch.set_threshold(1.0)
    assert float(branch.thre) == 1.5


@pytest.mark.parametrize("share", [0.3, 0.5, 0.55, 0.6, 1.0])
def test_the_share_of_channels_reaching_the_threshold(share):
    branch = SaliencyBranch(4, 16, 1)
    branch.add(torch.rand(10, 16, generator=torch.Generator().manual_seed(0)))
    branch.set_threshold(share)
    kept = int((branch.mask_sum / branch.mask_count >= branch.thre).sum())
    assert kept == math.ceil(round(share * 16, 9))


@pytest.mark.parametrize("which", ["margins", "logit_margins"])
def test_gradients_of_margins_are_right_for_channels_that_are_off(which):
    target, images = half_closed(depth=8).double(), natural(1).double()
    target.read_thresholds()
    inputs = images.clone().requires_grad_()
    output = target(inputs)
    weight = torch.randn(
        output.margins.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    chosen = weight * ~output.decisions
    (gradient,) = torch.autograd.grad(
        (getattr(output, which) * chosen).sum(), inputs, retain_graph=True
    )
    direction = gradient / gradient.norm()

    def value(x):
        return (getattr(target(x, output.decisions), which) * chosen).sum(1).detach()

    assert float(finite_difference(value, images, direction, step=1e-6)) == pytest.approx(
        float((gradient * direction).sum()), rel=1e-3
    )
    assert float(gradient.norm()) > 0


def test_dead_saliencies_have_a_logit_gradient_only():
    target = half_closed(depth=8)
    with torch.no_grad():
        target.branches()[0].fc2.bias.fill_(-50.0)
    inputs = natural(1).requires_grad_()
    output = target(inputs)
    first = slice(0, 16)
    assert not bool(output.decisions[:, first].any())
    (none,) = torch.autograd.grad(output.margins[:, first].sum(), inputs, retain_graph=True)
    (some,) = torch.autograd.grad(output.logit_margins[:, first].sum(), inputs)
    assert float(none.abs().max()) == 0 < float(some.abs().max())


def test_straight_through_closed_channels_pass_the_gradient_of_their_saliency():
    target, images = half_closed(depth=8), natural(1)
    found = {}
    for choice in ("none", "ste"):
        inputs = images.clone().requires_grad_()
        with target.evaluating(mask_grad=choice):
            logits = target(inputs).logits
        found[choice] = logits.detach(), torch.autograd.grad(logits.square().sum(), inputs)[0]
    assert torch.equal(found["none"][0], found["ste"][0])
    assert not torch.allclose(found["none"][1], found["ste"][1])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        pytest.param({"depth": 50, "layout": "imagenet"}, "did you mean 34", id="imagenet-50"),
        pytest.param({"depth": 21}, "did you mean 20", id="21"),
    ],
)
def test_networks_that_do_not_exist(params, told):
    with pytest.raises(PlanError, match=told):
        ManiDP(**params)


# --- FBS


def test_the_budget_is_the_same_on_every_image():
    target = FBS(depth=8, density=0.6).eval()
    output = target(natural(6))
    assert target.floor == target.ceiling
    assert set(target.macs(output.decisions).tolist()) == {target.ceiling}
    for one in target.convolutions:
        assert output.decisions[:, one.units].sum(1).tolist() == [math.ceil(0.6 * one.outputs)] * 6
    assert len({tuple(row) for row in output.decisions.tolist()}) > 1, (
        "which channels win depends on the image"
    )


def test_the_first_of_equals_wins():
    target = FBS(depth=8, density=0.5)
    kept = target.keep(0, torch.tensor([[1.0, 2.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    assert kept.tolist() == [[True, True, False, False], [True, True, False, False]]


def test_all_channels_may_win():
    target = FBS(depth=8, density=1.0).eval()
    output = target(natural(2))
    assert bool(output.decisions.all())
    assert bool((output.margins > 0).all())


@pytest.mark.parametrize("density", [0.0, -1.0, 1.5])
def test_densities_that_make_no_sense(density):
    with pytest.raises(PlanError, match="density"):
        FBS(density=density)


def test_no_attack_wins_a_single_mac():
    target = FBS(depth=8).eval().requires_grad_(False)
    clean, adversarial = attacked(target, natural(3))
    assert clean.tolist() == adversarial.tolist() == [target.ceiling] * 3


# --- the recipes


def test_stages():
    assert [stage().weights_name(name) for name, stage in ManiDPRecipe.stages.items()] == [
        "resnet-20-static",
        "manidp-20-dynamic",
    ]
    assert [stage().weights_name(name) for name, stage in FBSRecipe.stages.items()] == [
        "resnet-20-static",
        "fbs-20-fbs",
    ]
    assert (
        DynamicStage(depth=18, layout="imagenet").weights_name("dynamic")
        == "manidp-18-imagenet-dynamic"
    )
    assert DynamicStage().twin_name() == "resnet-20-static"
    with pytest.raises(PlanError, match="remain"):
        DynamicStage(remain=0.0)


def test_only_easy_images_are_pushed():
    found = DynamicStage(easy=0.5).weights(torch.tensor([0.0, 0.25, 0.5, 3.0]), before=1.0)
    assert found.tolist() == [1.0, 0.5, 0.0, 0.0]
    assert DynamicStage().weights(torch.tensor([1.0]), before=0.0).tolist() == [0.0]


def test_the_share_falls_on_a_cosine():
    stage = DynamicStage(remain=0.6, ramp=0.5)
    assert [stage.share(done) for done in (0.0, 0.25, 0.5, 0.9)] == pytest.approx(
        [1.0, 0.8, 0.6, 0.6]
    )


def test_older_saliencies_count_less():
    branch = SaliencyBranch(4, 2, 1)
    branch.add(torch.tensor([[1.0, 2.0], [3.0, 2.0]]))
    branch.add(torch.tensor([[0.0, 4.0]]))
    assert (branch.mask_sum / branch.mask_count).tolist() == pytest.approx(
        [4 * 0.98 / 2.96, (4 * 0.98 + 4) / 2.96]
    )


def test_similarity_gap_by_hand():
    pooled, saliency = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([[1.0, 0.0], [1.0, 1.0]]),
    )
    seen = Gated(pooled, saliency, saliency, saliency > 0)
    assert float(similarity_gap(seen)) == pytest.approx(2 * 0.5 / 4)


def test_a_step_moves_the_thresholds():
    stage = DynamicStage(depth=8, remain=0.5, ramp=0.5)
    torch.manual_seed(0)
    target = stage.build(10)
    stage.begin_epoch(target, ())
    loss, shown = stage.loss(target, natural(6), torch.arange(6), Moment(0.6, torch.Generator()))
    loss.backward()
    assert float(shown["open"]) == 1.0, "the thresholds of the step before"
    assert all(
        float(parameter.grad.abs().sum()) > 0
        for name, parameter in target.named_parameters()
        if "branch1.fc2" in name
    )
    stage.end_epoch(target, ({"error": 1.0},))
    for branch, one in zip(target.branches(), target.convolutions, strict=True):
        assert int((branch.mask_sum / branch.mask_count >= branch.thre).sum()) == math.ceil(
            0.5 * one.outputs
        )
        assert float(target.units.threshold[one.first]) == pytest.approx(float(branch.thre))
    _, shown = stage.loss(
        target, natural(6), torch.arange(6), Moment(0.6, torch.Generator(), ({"error": 1.0},))
    )
    assert 0.3 < float(shown["open"]) < 0.7
    plain, branches = stage.groups(target)
    assert branches["weight_decay"] == 0.0
    assert len(plain["params"]) + len(branches["params"]) == len(list(target.parameters()))
