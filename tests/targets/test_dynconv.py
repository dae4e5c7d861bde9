"""DynConv: costs with dilation by hand, its rule against an independent rewriting, both forms of
the cost's gradient, and the contract."""

import pytest
import torch
from gated_networks import attacked, natural
from original_dynconv import Original, random_state
from ptflops.aten_engine import FlopCounterMode
from torch import nn

from bench.api import Moment
from bench.errors import ContractBroken, PlanError, WeightsError
from bench.testing import check_target, problems, random_decisions
from targets.dynconv import DynConv
from targets.dynconv.gates import MaskUnit
from targets.pieces.positions import Positions, asking, dilate, read_alone
from targets.recipes.dynconv import DynConvRecipe, MaskedStage
from targets.resnet import ResNet


def lively(seed=0, **params):
    """A network whose masks have holes that depend on the image."""
    torch.manual_seed(seed)
    net = DynConv(**params)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if isinstance(module, MaskUnit):
            nn.init.normal_(module.conv.weight, 0, 0.3)
            nn.init.zeros_(module.fc.bias)
    return net.eval().requires_grad_(False)


def executed(net, image, decisions=None):
    """(output, MACs that ptflops sees)."""
    counter = FlopCounterMode()
    with torch.no_grad(), counter:
        output = net.execute(image, decisions)
    return output, counter.complexity


# --- costs


def mask_macs(channels, size):
    return (9 * channels + 1) * size * size + channels + 1


MASKS = 3 * mask_macs(16, 32) + mask_macs(16, 16) + 2 * mask_macs(32, 16)
MASKS += mask_macs(32, 8) + 2 * mask_macs(64, 8)


def test_costs_by_hand():
    net = DynConv(depth=20)
    static = 432 * 1024 + 512 * 256 + 2048 * 64 + 650  # stem, two projections, head with bias
    assert net.floor == static + MASKS
    assert net.ceiling == ResNet(depth=20).ceiling + MASKS
    assert len(net.units) == 3 * (32**2 + 16**2 + 8**2) == 4032
    assert DynConv(depth=20, masks="none").ceiling == ResNet(depth=20).ceiling
    half = 9 * 16 * 16
    assert net.units.cost[0] == 2 * half
    assert net.units.cost[3 * 1024] == 9 * 16 * 32 + 9 * 32 * 32  # a block with a stride
    released = DynConv(depth=20, cost_grad="released")
    assert released.units.cost[0] == half
    assert released.units.cost[3 * 1024] == 9 * 32 * 32


def test_the_cost_of_a_few_positions_by_hand():
    """A corner reads 4 positions; two neighbors in the middle read 3 x 4 together."""
    net, half = lively(depth=8), 9 * 16 * 16
    off = net.extremes()[0]
    corner, pair = off.clone(), off.clone()
    corner[0, 0] = True
    pair[0, [5 * 32 + 5, 5 * 32 + 6]] = True
    assert int(net.macs(corner)) == net.floor + half + 4 * half
    assert int(net.macs(pair)) == net.floor + 2 * half + 12 * half
    assert int(net.marginal_macs(pair)[0, 5 * 32 + 5]) == half + 3 * half
    assert int(net.marginal_macs(off)[0, 5 * 32 + 5]) == half + 9 * half
    for decisions in (corner, pair):
        assert executed(net, natural(1), decisions)[1] == int(net.macs(decisions))


def test_dilation_at_a_stride_is_what_windows_read():
    masks = torch.rand((3, 4, 4), generator=torch.Generator().manual_seed(0)) < 0.3
    for stride in (1, 2):
        size = 4 * stride
        expected = torch.zeros(3, size, size, dtype=torch.int64)
        for n, y, z in masks.nonzero().tolist():
            for dy in (-1, 0, 1):
                for dz in (-1, 0, 1):
                    row, column = stride * y + dy, stride * z + dz
                    if 0 <= row < size and 0 <= column < size:
                        expected[n, row, column] += 1
        assert torch.equal(asking(masks, stride), expected)
        assert torch.equal(dilate(masks, stride), expected > 0)
        count = dilate(masks, stride).sum((1, 2))
        for y in range(4):
            for z in range(4):
                other = masks.clone()
                other[:, y, z] ^= True
                moved = (dilate(other, stride).sum((1, 2)) - count).abs()
                assert torch.equal(read_alone(masks, stride)[:, y, z], moved)


def test_windows_at_a_stride_are_those_of_the_convolution():
    conv = nn.Conv2d(2, 3, 3, 2, 1, bias=False)
    x, mask = torch.rand(1, 2, 8, 8), torch.rand(4, 4) < 0.5
    where = Positions.of(mask)
    found = conv.weight.flatten(1) @ where.windows(x, 2)
    torch.testing.assert_close(found, conv(x)[0].flatten(1)[:, where.index])


DEEPER = pytest.mark.slow  # the same blocks, more of them


@pytest.mark.parametrize("depth", [20, pytest.param(32, marks=DEEPER)])
def test_macs_are_what_ptflops_counts(depth):
    net = lively(depth=depth)
    for row in [*net.extremes(), *random_decisions(net, 2).split(1)]:
        output, count = executed(net, natural(1), row)
        assert torch.equal(output.decisions, row)
        assert count == int(net.macs(row))
    output, count = executed(net, natural(1))
    assert count == int(net.macs(output.decisions))
    assert 0.1 < output.decisions.float().mean() < 0.9


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])  # 224 pixels
def test_macs_are_what_ptflops_counts_at_224(depth):
    net = lively(depth=depth, layout="imagenet")
    row = torch.rand(1, len(net.units), generator=torch.Generator().manual_seed(2)) < 0.05
    with torch.no_grad():
        whole = net(natural(1, 224), row)
    output, count = executed(net, natural(1, 224), row)
    assert count == int(net.macs(row))
    torch.testing.assert_close(output.logits, whole.logits, rtol=1e-3, atol=1e-3)


# --- the rule


def test_a_mask_unit_by_hand():
    unit = MaskUnit(1, 2)
    with torch.no_grad():
        unit.conv.weight.zero_()
        unit.conv.weight[0, 0, 1, 1] = 3.0
        unit.conv.bias.fill_(1.0)
        unit.fc.weight.fill_(2.0)
        unit.fc.bias.fill_(-20.5)
        x = torch.arange(16.0).view(1, 1, 4, 4)  # mean 7.5
        assert unit(x).tolist() == [[[-4.5, 1.5], [19.5, 25.5]]]


def test_a_logit_of_exactly_0_runs():
    net = DynConv(depth=8).eval()
    with torch.no_grad():
        for place in net.places:
            for value in net.get_submodule(place.gate).parameters():
                value.zero_()
        output = net(natural(2))
    assert bool((output.margins == 0).all())
    assert bool(output.decisions.all())
    assert not bool(net.units.strict.any())


def test_forced_open_is_the_plain_network_and_closed_keeps_the_relu():
    net = lively(depth=8)
    twin = ResNet(depth=8).eval()
    twin.load_state_dict({k: v for k, v in net.state_dict().items() if k in twin.state_dict()})
    images, off = natural(2), torch.zeros(2, len(net.units), dtype=torch.bool)
    with torch.no_grad():
        torch.testing.assert_close(net(images, ~off).logits, twin(images).logits)
        x = net.stem(images)
        for group in (2, 3):
            x = net.get_submodule(f"group{group}_ds0")(x).relu()
        torch.testing.assert_close(net(images, off).logits, net.head(x))


def test_the_twin_has_the_weights_of_a_plain_resnet():
    twin, plain = DynConv(depth=8, masks="none").eval(), ResNet(depth=8).eval()
    plain.load_state_dict(twin.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(natural(2)).logits, plain(natural(2)).logits)
        assert executed(twin, natural(1))[1] == twin.floor == twin.ceiling
    assert len(twin.units) == 0
    assert twin.marginal_macs(torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0)


LARGE = pytest.mark.slow  # networks at 224 pixels in double precision
RELEASED = [
    pytest.param(14, {}, 2, id="cifar-14"),
    pytest.param(18, {"layout": "imagenet", "num_classes": 10}, 1, marks=LARGE, id="imagenet-18"),
    pytest.param(50, {"layout": "imagenet", "num_classes": 10}, 1, marks=LARGE, id="imagenet-50"),
]


@pytest.mark.parametrize(("depth", "params", "count"), RELEASED)
def test_a_released_state_computes_and_costs_what_the_rewriting_says(depth, params, count):
    state = {name: value.float() for name, value in random_state(depth).items()}
    net = DynConv(depth=depth, **params)
    net.load_state_dict(DynConv.from_official({"epoch": 1, "state_dict": state}))
    net.double().eval().requires_grad_(False)
    original = Original({name: value.double() for name, value in state.items()}, depth)
    images = natural(count, net.image_shape[1]).double()
    together = net(images)
    taken = []
    for i in range(count):
        logits, maps, macs = original((images[i] - net.mean[:]) / net.std)
        flat = torch.cat([one.flatten() for one in maps])
        alone = net.execute(images[i : i + 1])
        for logit, margins, decisions in (
            (together.logits[i], together.margins[i], together.decisions[i]),
            (alone.logits[0], alone.margins[0], alone.decisions[0]),
        ):
            torch.testing.assert_close(logit, logits, rtol=1e-8, atol=1e-8)
            torch.testing.assert_close(margins, flat, rtol=1e-8, atol=1e-8)
            assert torch.equal(decisions, flat >= 0)
        assert int(net.macs(alone.decisions)) == net.floor + macs
        taken.append(float(alone.decisions.double().mean()))
    assert 0.1 < sum(taken) / count < 0.9


def test_an_import_that_does_not_fit_lists_what_is_wrong():
    state = random_state(14)
    del state["layer2.1.masker.maskconv.fc.weight"]
    state["layer1.0.masker.extra"] = torch.zeros(1)
    state["fc.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError) as error:
        DynConv.from_official(state)
    for part in (
        "missing: group2_gate1.fc.weight [1, 32]",
        "unexpected: group1_layer0.masker.extra",
        "fc.bias is [3]",
    ):
        assert part in error.value.message
    plain = {name: value for name, value in random_state(14).items() if ".masker." not in name}
    DynConv(depth=14, masks="none").load_state_dict(DynConv.from_official(plain))
    with pytest.raises(WeightsError, match="no DynConv checkpoint"):
        DynConv.from_official({"fc.weight": torch.zeros(2, 2)})


# --- gradients and the contract


@pytest.mark.parametrize("mask_grad", ["ste", "none"])
def test_rows_left_out_keep_the_gradient_of_the_masks(mask_grad):
    net = lively(depth=8, seed=1).double()
    images = natural(3).double().requires_grad_()
    forced = torch.rand((3, len(net.units)), generator=torch.Generator().manual_seed(0)) < 0.5
    forced[1, 1024:1280] = False  # an image without a position in the second block
    with net.evaluating(mask_grad=mask_grad):
        output = net(images, forced)
    x = net.stem(images)
    for mask in net.masks:
        logit = net.get_submodule(mask.place.gate)(x)
        hard = mask.maps(forced).double()
        if mask_grad == "ste":
            hard = hard + logit.sigmoid() - logit.sigmoid().detach()
        layer = net.get_submodule(mask.place.layer)
        x = (net.shortcut(mask.place, x) + hard[:, None] * layer.residual(x)).relu()
    plain = net.head(x)
    torch.testing.assert_close(output.logits, plain)
    (own,) = torch.autograd.grad(output.logits.square().sum(), images)
    (expected,) = torch.autograd.grad(plain.square().sum(), images)
    torch.testing.assert_close(own, expected)


def test_the_contract_holds():
    net = lively(depth=8, seed=2)
    assert not problems(check_target(net, natural(4)))


def test_an_attack_wins_macs_back():
    net = lively(depth=8, seed=3)
    clean, found = attacked(net, natural(4))
    assert bool((found > clean).all())


def test_float32_masks_under_autocast():
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = lively(depth=8)(natural(2))
    assert output.margins.dtype == torch.float32


def test_parameters_that_make_no_network():
    with pytest.raises(PlanError, match="6n\\+2"):
        DynConv(depth=21)
    with pytest.raises(ContractBroken, match="one image"):
        lively(depth=8).execute(natural(2))


# --- the recipe and the half of the cost without a gradient


def spent(stage, target, decisions):
    """(shares, gradient of their sum by unit) under forced decisions and logits of 0."""
    output = target(natural(len(decisions)), decisions)
    logits = torch.zeros(decisions.shape, requires_grad=True)
    shares = stage.shares(target, type(output)(output.logits, logits, logits, decisions))
    (grad,) = torch.autograd.grad(shares.sum(), logits)
    return shares.detach(), grad


def test_the_gradient_of_the_cost_as_released_and_mended():
    """Both count the first convolution; only the mended form has its gradient, sigmoid'(0) =
    1/4."""
    half, dense = 9 * 16 * 16, 2 * 9 * 16 * 16 * 1024
    found = {}
    for form in ("released", "mended"):
        stage = MaskedStage(depth=8, cost_grad=form)
        target = stage.build(10).eval()
        decisions = target.extremes()[0]
        decisions[0, [5 * 32 + 5, 5 * 32 + 6]] = True
        shares, grad = spent(stage, target, decisions)
        assert float(shares[0]) == pytest.approx(14 * half / dense)
        assert shares[1:].tolist() == [0.0, 0.0]
        found[form] = grad[0]
    at, far = 5 * 32 + 5, 20 * 32 + 20
    assert found["released"][[at, far]].tolist() == pytest.approx([0.25 * half / dense] * 2)
    assert found["mended"][[at, far]].tolist() == pytest.approx(
        [0.25 * 4 * half / dense, 0.25 * 10 * half / dense]
    )


def test_the_budget_by_hand():
    stage = MaskedStage(depth=8, budget=0.6)
    target = stage.build(10)
    shares = torch.tensor([1.0, 0.5, 0.5])
    first, second, third = 4718592.0, 3538944.0, 3538944.0
    whole = (first + (second + third) / 2) / (first + second + third)
    assert float(stage.whole(target, shares)) == pytest.approx(whole)
    # at first every block has to meet the budget, later none has
    bounds = (0.4**2 + 0.1**2 + 0.1**2) / 3
    for done, part in ((0.0, bounds), (1 / 3, 0.0), (0.9, 0.0)):
        found = float(stage.budget_loss(target, shares, done))
        assert found == pytest.approx((whole - 0.6) ** 2 + part, abs=1e-6)


def test_a_step_of_each_stage_trains_blocks_and_masks():
    for name, kind in DynConvRecipe.stages.items():
        stage = kind(depth=8)
        target = stage.build(10).train()
        moment = Moment(0.1, torch.Generator().manual_seed(0), (), None)
        loss, shown = stage.loss(target, natural(4), torch.arange(4), moment)
        loss.backward()
        assert 0 <= float(shown["accuracy"]) <= 1
        if name != "static":
            assert 0.8 < float(shown["open"]) < 0.95  # sigmoid(2) = 0.88
            assert float(target.get_submodule("group2_gate0.conv").weight.grad.abs().sum()) > 0


def test_settings_that_make_no_stage():
    for params in ({"budget": 1.5}, {"noisy": -0.1}):
        with pytest.raises(PlanError, match=next(iter(params))):
            MaskedStage(**params)
    assert MaskedStage(cost_grad="released").weights_name("dynconv") == (
        "dynconv-20-released-dynconv"
    )
