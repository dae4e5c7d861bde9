"""ConvNet-AIG: costs by hand, its rule against an independent rewriting, sampled gates, gradients,
and the contract."""

import math

import pytest
import torch
from gated_networks import attacked, natural
from original_aig import Original, random_state
from ptflops.aten_engine import FlopCounterMode
from torch import nn

from bench.api import Moment, Part
from bench.datasets.base import open_dataset
from bench.errors import ContractBroken, PlanError, WeightsError
from bench.evaluation import cost
from bench.evaluation.seeds import seeded
from bench.testing import check_target, problems, random_decisions
from bench.training.evaluate import measure
from targets.aig import AIG
from targets.aig.gates import RelevanceGate
from targets.pieces.gumbel import gumbel_difference
from targets.recipes.aig import AIGRecipe, GatedStage
from targets.resnet import ResNet


def lively(seed=0, **params):
    """A network whose gates disagree."""
    torch.manual_seed(seed)
    net = AIG(**params)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.7)
        if isinstance(module, RelevanceGate):
            nn.init.normal_(module.fc1bn.bias)
            nn.init.normal_(module.fc2.weight, 0, 3.0)
            nn.init.zeros_(module.fc2.bias)
    return net.eval().requires_grad_(False)


def executed(net, image, decisions=None):
    """(output, MACs that ptflops sees)."""
    counter = FlopCounterMode()
    with torch.no_grad(), counter:
        output = net.execute(image, decisions)
    return output, counter.complexity


def gate_macs(channels):
    return channels * 16 + 16 + 16 * 2 + 2


# --- costs


def test_costs_by_hand():
    net = AIG(depth=20)
    whole, first = 2 * 9 * 16 * 16 * 1024, 9 * (16 * 32 + 32 * 32) * 256
    assert (whole, first) == (4718592, 3538944)
    assert net.units.name == tuple(f"group{g}.block{i}" for g in (1, 2, 3) for i in (0, 1, 2))
    assert net.units.cost.tolist() == [whole] * 3 + [first, whole, whole] * 2
    gates = 4 * gate_macs(16) + 3 * gate_macs(32) + 2 * gate_macs(64)
    assert gates == 4 * 306 + 3 * 562 + 2 * 1074 == 5058
    static = 432 * 1024 + 512 * 256 + 2048 * 64 + 650  # stem, two projections, head with bias
    assert net.floor == static + gates
    assert net.ceiling == ResNet(depth=20).ceiling + gates
    assert AIG(depth=20, gating="none").ceiling == ResNet(depth=20).ceiling


DEEPER = pytest.mark.slow  # the same blocks, more of them


@pytest.mark.parametrize("depth", [20, pytest.param(38, marks=DEEPER)])
def test_macs_are_what_ptflops_counts(depth):
    net = lively(depth=depth)
    for row in [*net.extremes(), *random_decisions(net, 3).split(1)]:
        output, count = executed(net, natural(1), row)
        assert torch.equal(output.decisions, row)
        assert count == int(net.macs(row))
    assert net.floor + int(net.units.cost.sum()) == net.ceiling
    assert executed(net, natural(1), net.extremes()[0])[1] == net.floor


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])  # 224 pixels
def test_macs_are_what_ptflops_counts_at_224(depth):
    net = AIG(depth=depth, layout="imagenet").eval()
    row = random_decisions(net, 1)
    assert executed(net, natural(1, 224), row)[1] == int(net.macs(row))


def test_a_closed_block_is_not_run():
    net, ran = lively(), []
    for place in net.places:
        net.get_submodule(place.layer).conv1.register_forward_hook(
            lambda *_, name=place.name: ran.append(name)
        )
    row = torch.zeros(1, 9, dtype=torch.bool)
    row[0, [2, 3, 8]] = True
    with torch.no_grad():
        net.execute(natural(1), row)
    assert ran == ["group1.block2", "group2.block0", "group3.block2"]


# --- the rule


def test_a_gate_by_hand():
    gate = RelevanceGate(1).eval()
    with torch.no_grad():
        for value in gate.parameters():
            value.zero_()
        gate.fc1.weight[0] = 2.0  # of the mean, 3
        gate.fc1bn.weight.fill_(1.0)
        gate.fc1bn.running_var.fill_(4.0 - gate.fc1bn.eps)  # 6 / 2 = 3
        gate.fc2.weight[:, 0] = torch.tensor([1.0, 3.0])[:, None, None]
        gate.fc2.bias.copy_(torch.tensor([2.0, 1.0]))
        found = gate(torch.tensor([[[[1.0, 5.0], [2.0, 4.0]]]]))
    assert found.tolist() == pytest.approx([(1 + 3 * 3) - (2 + 3)])


def test_a_gate_starts_open_and_equal_logits_skip():
    net = AIG(depth=8).eval()
    with torch.no_grad():
        assert net(natural(2)).logit_margins.mean() == pytest.approx(1.9, abs=0.05)
        for place in net.places:
            net.get_submodule(place.gate).fc2.weight.zero_()
            net.get_submodule(place.gate).fc2.bias.fill_(0.1)
        output = net(natural(2))
    assert bool((output.margins == 0).all())
    assert not bool(output.decisions.any())
    assert bool(net.units.strict.all())


def test_forced_open_is_the_plain_network_and_closed_keeps_the_relu():
    net = lively(depth=8)
    twin = ResNet(depth=8).eval()
    twin.load_state_dict({k: v for k, v in net.state_dict().items() if k in twin.state_dict()})
    images = natural(2)
    with torch.no_grad():
        opened = net(images, torch.ones(2, 3, dtype=torch.bool))
        torch.testing.assert_close(opened.logits, twin(images).logits)
        x = net.stem(images)
        for group in (2, 3):
            x = net.get_submodule(f"group{group}_ds0")(x).relu()
        closed = net(images, torch.zeros(2, 3, dtype=torch.bool))
        torch.testing.assert_close(closed.logits, net.head(x))


def test_the_twin_has_the_weights_of_a_plain_resnet():
    twin = AIG(depth=8, gating="none").eval()
    plain = ResNet(depth=8).eval()
    plain.load_state_dict(twin.state_dict())
    with torch.no_grad():
        assert torch.equal(twin(natural(2)).logits, plain(natural(2)).logits)
        assert executed(twin, natural(1))[1] == twin.floor == twin.ceiling
    assert len(twin.units) == 0


def released(depth, seed=0, **params):
    state = random_state(depth, seed=seed)
    kept = {name: value.float() for name, value in state.items()}
    net = AIG(depth=depth, **params)
    wrapped = {f"module.{name}": value for name, value in kept.items()}
    net.load_state_dict(AIG.from_official({"epoch": 1, "state_dict": wrapped}))
    precise = {name: value.double() for name, value in kept.items()}
    return net.double().eval().requires_grad_(False), Original(precise, depth)


LARGE = pytest.mark.slow  # networks at 224 pixels, one in double precision
RELEASED = [
    pytest.param(20, {}, 3, id="cifar-20"),
    pytest.param(18, {"layout": "imagenet", "num_classes": 10}, 1, marks=LARGE, id="imagenet-18"),
    pytest.param(50, {"layout": "imagenet", "num_classes": 10}, 1, marks=LARGE, id="imagenet-50"),
]


@pytest.mark.parametrize(("depth", "params", "count"), RELEASED)
def test_a_released_state_computes_what_the_rewriting_computes(depth, params, count):
    net, original = released(depth, **params)
    images = natural(count, net.image_shape[1]).double().requires_grad_()
    output = net(images)
    taken = []
    for i in range(count):
        one = images[i].detach().requires_grad_()
        logits, pairs, ran = original((one - net.mean) / net.std)
        torch.testing.assert_close(output.logits[i], logits, rtol=1e-8, atol=1e-8)
        margin = torch.stack([pair.softmax(0)[1] - 0.5 for pair in pairs])
        torch.testing.assert_close(output.margins[i], margin, rtol=1e-8, atol=1e-8)
        assert output.decisions[i].tolist() == ran
        taken += ran
        (grad,) = torch.autograd.grad(logits.square().sum(), one)
        (own,) = torch.autograd.grad(output.logits[i].square().sum(), images, retain_graph=True)
        torch.testing.assert_close(own[i], grad, rtol=1e-6, atol=1e-8 * float(grad.abs().max()))
    assert 0.1 < sum(taken) / len(taken) < 0.9


def test_an_import_that_does_not_fit_lists_what_is_wrong():
    state = random_state(20)
    del state["layer2.1.fc1bn.weight"]
    state["layer1.0.conv9.weight"] = torch.zeros(1)
    state["linear.bias"] = torch.zeros(3)
    with pytest.raises(WeightsError) as error:
        AIG.from_official(state)
    for part in (
        "missing: group2_gate1.fc1bn.weight [16]",
        "unexpected: group1_layer0.conv9.weight",
        "fc.bias is [3]",
    ):
        assert part in error.value.message
    with pytest.raises(WeightsError, match=r"no ConvNet-AIG checkpoint.*fc\.weight"):
        AIG.from_official({"fc.weight": torch.zeros(2, 2)})


# --- sampled


def test_noise_is_logistic_by_hand_and_on_the_mean():
    found = gumbel_difference(torch.tensor([[0.5, 0.5], [math.exp(-math.e), math.exp(-1)]]))
    assert found.tolist() == pytest.approx([0.0, 1.0], abs=1e-6)  # -log(-log u) = -1 and 0
    draws = gumbel_difference(torch.rand(20000, 2, generator=torch.Generator().manual_seed(0)))
    for logit in (-1.0, 0.0, 2.0):
        share = float((logit + draws > 0).double().mean())
        assert share == pytest.approx(1 / (1 + math.exp(-logit)), abs=0.015)


def test_sampled_gates_follow_the_rewriting_with_the_same_noise():
    net, original = released(20, gating="sample", draws=5)
    images = natural(2).double()
    seeds = torch.tensor([11, 12])
    with torch.no_grad(), seeded(net, seeds):
        output = net(images)
    for i in range(2):
        uniform = torch.rand((9, 2), generator=torch.Generator().manual_seed(int(seeds[i])))
        gumbel = [tuple(-math.log(-math.log(u)) for u in pair) for pair in uniform.tolist()]
        logits, pairs, ran = original((images[i] - net.mean) / net.std, gumbel)
        assert output.decisions[i].tolist() == ran
        torch.testing.assert_close(output.logits[i], logits, rtol=1e-6, atol=1e-6)
        margin = torch.stack([pair.softmax(0)[1] - 0.5 for pair in pairs])
        torch.testing.assert_close(output.margins[i], margin, rtol=1e-5, atol=1e-5)


def test_a_row_draws_from_its_own_seed_alone():
    net = lively(gating="sample")
    images = natural(1).expand(4, -1, -1, -1)
    with torch.no_grad(), seeded(net, torch.tensor([3, 4, 3, 5])):
        output = net(images)
    with torch.no_grad(), seeded(net, torch.tensor([4])):
        alone = net.execute(images[:1])
    assert torch.equal(output.margins[0], output.margins[2])
    assert not torch.equal(output.margins[0], output.margins[1])
    torch.testing.assert_close(alone.margins[0], output.margins[1])
    assert torch.equal(alone.decisions[0], output.decisions[1])
    assert (net.draws, lively().draws) == (20, 1)


def test_what_is_measured_of_a_sampled_network_has_a_draw_for_each_image():
    net = AIG(gating="sample").eval()
    data = Part(open_dataset("digits-m:test"), (7,) * 200)  # one image, so that only draws differ
    found = measure(net, data)
    assert found.opening_rates == pytest.approx([1 / (1 + math.exp(-1.9))] * 9, abs=0.08)
    assert found.spread > 0.05
    assert measure(net, data) == found


# --- gradients and the contract


@pytest.mark.parametrize("mask_grad", ["ste", "none"])
def test_gathering_keeps_the_gradient_of_the_masks(mask_grad):
    net = lively(seed=3).double()
    images = natural(5).double().requires_grad_()
    with net.evaluating(mask_grad=mask_grad):
        output = net(images)
    x, margins = net.stem(images), []
    for place in net.places:
        logit = net.get_submodule(place.gate)(x)
        mask = (logit > 0).double()
        if mask_grad == "ste":
            mask = mask + logit.sigmoid() - logit.sigmoid().detach()
        layer = net.get_submodule(place.layer)
        x = (net.shortcut(place, x) + mask[:, None, None, None] * layer.residual(x)).relu()
        margins.append(logit)
    plain = net.head(x)
    assert 0.1 < output.decisions.double().mean() < 0.9
    torch.testing.assert_close(output.logits, plain)
    for ours, other in ((output.logits, plain), (output.logit_margins, torch.stack(margins, 1))):
        (own,) = torch.autograd.grad(ours.square().sum(), images, retain_graph=True)
        (expected,) = torch.autograd.grad(other.square().sum(), images, retain_graph=True)
        torch.testing.assert_close(own, expected)


@pytest.mark.parametrize("gating", ["argmax", "sample"])
def test_the_contract_holds(gating):
    net = lively(depth=8, gating=gating, seed=2)
    assert not problems(check_target(net, natural(4)))


def test_an_attack_wins_macs_back():
    net, images = lively(seed=5), natural(4)
    for unit, place in enumerate(net.places):  # logits a little below 0 on the mean
        middle = net(images).logit_margins[:, unit].mean()
        net.get_submodule(place.gate).fc2.bias[0] += middle + 0.05
    clean, found = attacked(net, images)
    assert int(found.sum()) > int(clean.sum())


def test_float32_gates_under_autocast():
    net = lively(depth=8)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = net(natural(2))
    assert output.logit_margins.dtype == torch.float32


def test_parameters_that_make_no_network():
    with pytest.raises(PlanError, match="draws = 1"):
        AIG(gating="sample", draws=1)
    with pytest.raises(PlanError, match="6n\\+2"):
        AIG(depth=21)
    with pytest.raises(ContractBroken, match="one image"):
        lively(depth=8).execute(natural(2))
    assert cost.audit(lively(depth=8), natural(1)).macs > 0


# --- the recipe


def test_the_penalty_by_hand():
    """(2 blocks, 4 images) of which 3 and 1 are open, wanted 0.5: mean of 0.0625 twice."""
    stage = GatedStage(target_open=0.5, penalty=2.0)
    taken = torch.tensor([[1, 0], [1, 0], [1, 1], [0, 0]], dtype=torch.bool)
    values = torch.full((4, 2), 0.25, requires_grad=True)
    loss = stage.rate_loss(taken, values)
    assert float(loss.detach()) == pytest.approx(0.0625)
    (grad,) = torch.autograd.grad(loss, values)
    # d/dv of mean_l (mean_n v - 0.5)^2 = 2 (rate - 0.5) / (4 images 2 blocks)
    assert grad[0].tolist() == pytest.approx([0.0625, -0.0625])
    own = GatedStage(rates=(1.0, 0.25)).rate_loss(taken, values)
    assert float(own.detach()) == pytest.approx(0.0)


def test_a_step_of_each_stage_trains_blocks_and_gates():
    for name, kind in AIGRecipe.stages.items():
        stage = kind(depth=8)
        target = stage.build(10).train()
        moment = Moment(0.1, torch.Generator().manual_seed(0), (), None)
        loss, shown = stage.loss(target, natural(4), torch.arange(4), moment)
        loss.backward()
        assert 0 <= float(shown["accuracy"]) <= 1
        if name != "static":
            assert float(target.get_submodule("group2_gate0.fc2").weight.grad.abs().sum()) > 0
    assert AIGRecipe.stages["sampled"](depth=8).target_params()["gating"] == "sample"


def test_noise_ends_where_the_setting_says():
    stage = GatedStage(depth=8, noisy=0.5)
    target = stage.build(10).eval()

    def opened(done):
        moment = Moment(done, torch.Generator().manual_seed(0), (), None)
        return float(stage.loss(target, natural(64), torch.zeros(64).long(), moment)[1]["open"])

    assert 0.75 < opened(0.4) < 0.97  # 87 % of sampled gates
    assert opened(0.6) == 1.0
    with pytest.raises(PlanError, match="rates"):
        GatedStage(depth=8, rates=(0.5,)).build(10)
