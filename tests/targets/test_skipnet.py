"""SkipNet: what runs, what it costs, and what gradients it gives, in every form."""

import pytest
import torch
from ptflops.aten_engine import FlopCounterMode
from torch import nn

from bench.api import Evaluation
from bench.errors import ContractBroken, PlanError
from targets.resnet import ResNet
from targets.skipnet import SkipNet

CIFAR = [(depth, gate) for depth in (20, 38, 110) for gate in ("rnn", "ff1", "ff2")]
AGAIN = pytest.mark.slow  # the same with other weights
LARGE = pytest.mark.slow  # 34 to 152 layers at 224 pixels
IMAGENET = [18, *(pytest.param(depth, marks=LARGE) for depth in (34, 50, 101, 152))]


def lively(seed=0, **params):
    """A network whose gates disagree: statistics and gate weights moved away from their start."""
    torch.manual_seed(seed)
    net = SkipNet(**params)
    for name, module in net.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.7)
        if name.endswith("linear_layer"):
            nn.init.normal_(module.weight, 0, 2.0)
    if net.control is not None:
        nn.init.normal_(net.control.proj.weight, 0, 6.0)
        for parameter in net.control.rnn.parameters():
            nn.init.normal_(parameter)
    return net.eval()


def images(net, count, seed=1, dtype=torch.float32):
    return torch.rand(
        (count, *net.image_shape), generator=torch.Generator().manual_seed(seed), dtype=dtype
    )


def executed(net, image, decisions=None):
    """(output, MACs that ptflops sees)."""
    counter = FlopCounterMode()
    with torch.no_grad(), counter:
        output = net.execute(image, decisions)
    return output, counter.complexity


def assert_counts(net, many):
    units = len(net.units)
    off = torch.zeros(1, units, dtype=torch.bool)
    image = images(net, 1)
    assert executed(net, image, off)[1] == net.floor == int(net.macs(off))
    assert executed(net, image, ~off)[1] == net.ceiling == int(net.macs(~off))
    forced = torch.rand((many, units), generator=torch.Generator().manual_seed(5)) < 0.5
    for row in forced.split(1):
        output, count = executed(net, image, row)
        assert torch.equal(output.decisions, row)
        assert count == int(net.macs(row))
    output, count = executed(net, image)
    assert count == int(net.macs(output.decisions))
    assert net.floor + int(net.units.cost.sum()) == net.ceiling


@pytest.mark.parametrize(("depth", "gate"), CIFAR)
def test_macs_are_what_ptflops_counts(depth, gate):
    net = lively(depth=depth, gate=gate)
    assert len(net.units) == (depth - 2) // 2 - 1
    assert_counts(net, many=2)


@pytest.mark.parametrize("depth", IMAGENET)
def test_macs_are_what_ptflops_counts_at_224(depth):
    assert_counts(SkipNet(depth=depth, layout="imagenet").eval(), many=1)


def test_real_images_cost_what_they_decided():
    net = lively(seed=4)
    batch = images(net, 12)
    with torch.no_grad():
        together = net(batch)
    assert len(together.decisions.unique(dim=0)) > 1, "all images decide alike: choose another seed"
    for row, image in enumerate(batch.split(1)):
        output, count = executed(net, image)
        assert torch.equal(output.decisions[0], together.decisions[row])
        assert count == int(net.macs(together.decisions)[row])
        torch.testing.assert_close(output.logits[0], together.logits[row], rtol=1e-4, atol=1e-5)


def test_costs_by_hand():
    net = SkipNet(depth=20)
    assert net.units.name == tuple(f"group{g}.block{i}" for g in (1, 2, 3) for i in (0, 1, 2))[1:]
    assert net.units.cost.tolist() == [
        4718592,
        4718592,
        3538944,
        4718592,
        4718592,
        3538944,
        4718592,
        4718592,
    ]
    gates = 8 * (2 * (10 * 40 + 40) + 11) + 10 * 8 + 10 * (3 * 16 + 3 * 32 + 2 * 64)
    assert net.ceiling == ResNet(depth=20).ceiling + gates
    static = 432 * 1024 + 512 * 256 + 2048 * 64 + 650  # stem, two projections, head with bias
    assert net.floor == static + 4718592 + gates


def test_gate_networks_are_dear():
    static = ResNet(depth=38).ceiling
    assert SkipNet(depth=38, gate="ff1").ceiling - static == pytest.approx(12.5e6, rel=0.01)
    static = ResNet(depth=110).ceiling
    assert SkipNet(depth=110, gate="ff2").ceiling - static == pytest.approx(31.3e6, rel=0.01)


@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
def test_all_open_is_the_plain_resnet(gate):
    net = lively(gate=gate)
    plain = ResNet(depth=20).eval()
    plain.load_state_dict(
        {
            name: value
            for name, value in net.state_dict().items()
            if "gate" not in name and "control" not in name
        }
    )
    batch = images(net, 4)
    with torch.no_grad():
        opened = net(batch, torch.ones(4, len(net.units), dtype=torch.bool))
        assert torch.equal(opened.logits, plain(batch).logits)


def test_all_closed_is_stem_first_block_projections_and_head():
    net = lively()
    batch = images(net, 3)
    with torch.no_grad():
        closed = net(batch, torch.zeros(3, len(net.units), dtype=torch.bool))
        x = torch.relu(net.bn1(net.conv1((batch - net.mean) / net.std)))
        x = net.group1_layer0(x, x)
        x = net.group3_ds0(net.group2_ds0(x))
        torch.testing.assert_close(closed.logits, net.fc(x.mean((2, 3))), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
def test_a_gate_value_of_exactly_one_half_is_closed(gate):
    net = lively(gate=gate)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if name.startswith("control.proj") or "linear_layer" in name:
                parameter.zero_()
        output = net(images(net, 2))
    assert (output.margins == 0).all()
    assert not output.decisions.any()
    assert torch.equal(net.units.wanted(output.margins), output.decisions)


@pytest.mark.parametrize("mask_grad", ["ste", "none"])
@pytest.mark.parametrize("gate", ["rnn", "ff2"])
def test_batch_of_one_is_batch_of_many(gate, mask_grad):
    net = lively(seed=4, gate=gate).double()
    net.evaluation = Evaluation(mask_grad=mask_grad)
    batch = images(net, 9, dtype=torch.float64).requires_grad_()
    together = net(batch)
    (gradient,) = torch.autograd.grad(
        together.logits.square().sum() + together.margins.sum(), batch
    )
    for row in range(9):
        alone = batch[row : row + 1].detach().requires_grad_()
        output = net(alone)
        torch.testing.assert_close(output.logits[0], together.logits[row])
        assert torch.equal(output.decisions[0], together.decisions[row])
        (own,) = torch.autograd.grad(output.logits.square().sum() + output.margins.sum(), alone)
        torch.testing.assert_close(own[0], gradient[row])


def masked(net, batch, soft):
    """The same network with every block evaluated and multiplied by its mask: (logits, margins)."""
    x = net.stem(batch)
    x = net.group1_layer0(x, x)
    state, margins = None, []
    for before, place in zip(net.places[:-1], net.places[1:], strict=True):
        feature = net.get_submodule(before.gate)(x)
        logit, state = (feature, None) if net.control is None else net.control(feature, state)
        p = logit.sigmoid()
        mask = (p > 0.5).to(p.dtype)
        mask = (mask - p.detach() + p if soft else mask)[:, None, None, None]
        by = net.shortcut(place, x)
        x = mask * net.get_submodule(place.layer)(x, by) + (1 - mask) * by
        margins.append(p - 0.5)
    return net.head(x), torch.stack(margins, 1)


@pytest.mark.parametrize("mask_grad", ["ste", "none"])
@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
@pytest.mark.parametrize("seed", [2, pytest.param(4, marks=AGAIN)])
def test_gathering_keeps_the_gradient_of_the_masks(gate, mask_grad, seed):
    net = lively(seed=seed, gate=gate).double()
    net.evaluation = Evaluation(mask_grad=mask_grad)
    batch = images(net, 7, dtype=torch.float64).requires_grad_()
    logits, margins = masked(net, batch, soft=mask_grad == "ste")
    output = net(batch)
    torch.testing.assert_close(output.logits, logits)
    torch.testing.assert_close(output.margins, margins)
    for term in ("logits", "margins"):
        theirs = {"logits": logits, "margins": margins}[term]
        weight = torch.linspace(-1, 1, theirs.numel(), dtype=torch.float64).view_as(theirs)
        (expected,) = torch.autograd.grad((theirs * weight).sum(), batch, retain_graph=True)
        (got,) = torch.autograd.grad(
            (getattr(output, term) * weight).sum(), batch, retain_graph=True
        )
        torch.testing.assert_close(got, expected)
    parameters = list(net.parameters())
    expected = torch.autograd.grad(
        logits.square().sum(), parameters, retain_graph=True, allow_unused=True
    )
    got = torch.autograd.grad(output.logits.square().sum(), parameters, allow_unused=True)
    for one, other in zip(got, expected, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(
            zero if one is None else one.sum(),
            zero if other is None else other.sum(),
            check_dtype=False,
        )


def test_straight_through_changes_gradients_but_no_value():
    net = lively(seed=4).double()
    batch = images(net, 5, dtype=torch.float64).requires_grad_()
    seen = {}
    for mask_grad in ("ste", "none"):
        with net.evaluating(mask_grad=mask_grad):
            output = net(batch)
        (gradient,) = torch.autograd.grad(output.logits.sum(), batch)
        seen[mask_grad] = output.logits, output.margins, gradient
    assert torch.equal(seen["ste"][0], seen["none"][0])
    assert torch.equal(seen["ste"][1], seen["none"][1])
    assert not torch.allclose(seen["ste"][2], seen["none"][2])


@pytest.mark.parametrize("gate", ["rnn", "ff1"])
def test_margins_against_finite_differences(gate):
    net = lively(seed=4, gate=gate).double()
    net.evaluation = Evaluation(mask_grad="none")
    batch = images(net, 3, dtype=torch.float64).requires_grad_()
    output = net(batch)
    weight = torch.linspace(1, 2, output.margins.numel(), dtype=torch.float64).view_as(
        output.margins
    )
    (gradient,) = torch.autograd.grad((output.margins * weight).sum(), batch)
    step = 1e-7 * torch.randn(
        batch.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    with torch.no_grad():
        up, down = net(batch + step), net(batch - step)
    assert torch.equal(up.decisions, down.decisions), "a decision flipped: choose another seed"
    measured = float(((up.margins - down.margins) * weight).sum()) / 2
    assert measured == pytest.approx(float((gradient * step).sum()), rel=1e-5)


def test_forced_decisions_leave_the_margins_readable():
    net = lively()
    batch = images(net, 4)
    forced = torch.rand((4, len(net.units)), generator=torch.Generator().manual_seed(3)) < 0.5
    with torch.no_grad():
        output = net(batch, forced)
        free = net(batch)
    assert torch.equal(output.decisions, forced)
    assert torch.equal(output.margins[:, 0], free.margins[:, 0]), (
        "nothing is forced in front of the first gate"
    )


def test_closed_blocks_are_not_evaluated():
    net = lively()
    calls = []
    for place in net.places:
        net.get_submodule(place.layer).register_forward_hook(
            lambda module, inputs, output, name=place.name: calls.append((name, len(inputs[0])))
        )
    forced = torch.zeros(4, len(net.units), dtype=torch.bool)
    forced[1, 0] = forced[3, 0] = forced[:, 4] = True
    net.evaluation = Evaluation(mask_grad="none")
    net(images(net, 4).requires_grad_(), forced)
    assert calls == [("group1.block0", 4), ("group1.block1", 2), ("group2.block2", 4)]
    calls.clear()
    net.evaluation = Evaluation(mask_grad="ste")
    with torch.no_grad():
        net(images(net, 4), forced)
    assert len(calls) == 3, "without a gradient there is no need for straight-through masks"
    calls.clear()
    net.execute(images(net, 1), forced[:1])
    assert calls == [("group1.block0", 1), ("group2.block2", 1)]


def test_projections_run_once():
    net = lively()
    calls = []
    net.group2_ds0.register_forward_hook(lambda module, inputs, output: calls.append(1))
    net(images(net, 2).requires_grad_(), torch.ones(2, len(net.units), dtype=torch.bool))
    assert len(calls) == 1


def test_nothing_is_kept_between_calls():
    net = lively()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    batch = images(net, 3)
    kept = batch.clone()
    first = net(batch)
    net(images(net, 5, seed=8))
    second = net(batch)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.margins, second.margins)
    assert torch.equal(batch, kept)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_the_fork_shows_both_gradients_of_every_gate():
    net = lively(seed=4).double()
    batch = images(net, 2, dtype=torch.float64).requires_grad_()
    (plain,) = torch.autograd.grad(net(batch).margins.sum(), batch)
    units = []

    def look(loss, unit, main, gate):
        units.append(unit)
        return main, gate

    with net.evaluating(at_fork=look):
        (seen,) = torch.autograd.grad(net(batch).margins.sum(), batch)
    torch.testing.assert_close(seen, plain)
    assert units == list(range(len(net.units)))[::-1]
    with net.evaluating(at_fork=lambda loss, unit, main, gate: (main, torch.zeros_like(gate))):
        (cut,) = torch.autograd.grad(net(batch).margins.sum(), batch)
    assert float(cut.abs().max()) == 0, "margins reach the image by the gates' paths alone"


def test_training_uses_the_statistics_of_the_whole_batch():
    torch.manual_seed(0)
    net = SkipNet()
    net.train()
    batch = images(net, 8)
    seen = []
    net.group2_layer1.bn1.register_forward_hook(
        lambda module, inputs, output: seen.append(len(inputs[0]))
    )
    output = net(batch, torch.zeros(8, len(net.units), dtype=torch.bool))
    output.logits.sum().backward()
    assert seen == [8]
    assert (
        net.group2_layer1.conv1.weight.grad is None
        or float(net.group2_layer1.conv1.weight.grad.abs().sum()) == 0
    )


def test_gates_are_float32_under_autocast():
    net = lively()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        output = net(images(net, 2))
    assert output.margins.dtype == torch.float32
    assert output.logits.dtype == torch.bfloat16


def test_parameters_and_their_mistakes():
    assert SkipNet().evaluation.mask_grad == "ste"
    assert SkipNet(form="hrl").evaluation.mask_grad == "none"
    assert SkipNet(num_classes=100).classes == 100
    with pytest.raises(PlanError, match="recurrent gate only"):
        SkipNet(depth=18, layout="imagenet", gate="ff1")
    with pytest.raises(ContractBroken, match="one image"):
        SkipNet().execute(torch.rand(2, 3, 32, 32))
    for name, preset in SkipNet.presets.items():
        with torch.device("meta"):
            net = SkipNet(**preset)
        assert 0 < net.floor < net.ceiling, name


def test_random_weights_are_reproducible():
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(SkipNet().state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
def test_cuda_counts_and_decides_alike(gate):
    net = lively(seed=4, gate=gate)
    batch = images(net, 8)
    with torch.no_grad():
        expected = net(batch)
        net.cuda()
        got = net(batch.cuda())
    assert torch.equal(got.decisions.cpu(), expected.decisions)
    torch.testing.assert_close(got.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-3)
    output, count = executed(net, batch[:1].cuda())
    assert count == int(net.macs(output.decisions)) == int(net.cpu().macs(output.decisions.cpu()))
