"""The static networks: published MACs, torchvision's logits, and the refusal of depths that do not
exist."""

import pytest
import torch
import torchvision
from ptflops.aten_engine import FlopCounterMode
from torch import nn

from bench.api import Target
from bench.errors import ContractBroken, PlanError
from targets.pieces.counting import macs_of
from targets.resnet import ResNet
from targets.resnet.blocks import BasicBlock, Bottleneck, layout_for
from targets.sact import SACT
from targets.skipnet import SkipNet


@pytest.mark.parametrize(
    ("layout", "depth", "published"),
    [
        ("cifar", 38, 83.28e6),
        ("cifar", 74, 168.22e6),
        ("cifar", 110, 253.15e6),
        ("cifar", 152, 352.24e6),
        ("imagenet", 18, 1.814e9),
        ("imagenet", 34, 3.664e9),
        ("imagenet", 50, 4.089e9),
        ("imagenet", 101, 7.801e9),
        ("imagenet", 152, 11.514e9),
    ],
)
def test_totals_are_the_published_ones(layout, depth, published):
    with torch.device("meta"):
        net = ResNet(depth=depth, layout=layout)
    digits = 1e4 if layout == "cifar" else 1e6
    assert net.ceiling == net.floor
    assert abs(net.ceiling - published) < digits


@pytest.mark.parametrize(
    ("layout", "depth", "always"),
    [("cifar", 38, 6.5), ("cifar", 110, 2.1), ("imagenet", 18, 20.3), ("imagenet", 50, 16.1)],
)
def test_share_that_always_runs(layout, depth, always):
    with torch.device("meta"):
        net = ResNet(depth=depth, layout=layout)
    share = 100 * (net.outer_macs() + net.block_macs()[0]) / net.ceiling
    assert share == pytest.approx(always, abs=0.06)


@pytest.mark.parametrize("family", [ResNet, SACT], ids=["resnet", "sact"])
@pytest.mark.parametrize(
    ("depth", "near"),
    [
        pytest.param(21, "20 or 26", id="between"),
        pytest.param(1, "8 or 14", id="too-small"),
        pytest.param(1208, "1196 or 1202", id="too-deep"),
        pytest.param(600_000_002, "1196 or 1202", id="would-never-be-built"),
    ],
)
def test_a_depth_that_nobody_has_is_refused_with_the_nearest(family, depth, near):
    with pytest.raises(PlanError, match=f"depth = {depth}: .* did you mean {near}"):
        family(depth=depth)


def test_macs_by_hand():
    assert (
        macs_of(BasicBlock(16, 16), (16, 32, 32), (16, 32, 32))
        == 2 * 16 * 16 * 9 * 32 * 32
        == 4_718_592
    )
    assert (
        macs_of(BasicBlock(16, 32, 2), (16, 32, 32), (32, 16, 16))
        == (16 + 32) * 32 * 9 * 16 * 16
        == 3_538_944
    )
    assert (
        macs_of(Bottleneck(256, 64), (256, 56, 56), (256, 56, 56))
        == (2 * 256 * 64 + 64 * 64 * 9) * 56 * 56
    )
    assert macs_of(nn.Linear(64, 10), (64,)) == 650


def test_counting_leaves_the_module_alone():
    block = BasicBlock(16, 16)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    macs_of(block, (16, 8, 8), (16, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())
    assert all(parameter.device.type == "cpu" for parameter in block.parameters())
    assert block.training


def test_execute_costs_what_macs_says():
    net = ResNet(depth=20).eval()
    assert isinstance(net, Target)
    counter = FlopCounterMode()
    with torch.no_grad(), counter:
        output = net.execute(torch.rand(1, 3, 32, 32))
    assert counter.complexity == net.ceiling == int(net.macs(output.decisions))
    assert output.decisions.shape == (1, 0)
    assert len(net.units) == 0
    with pytest.raises(ContractBroken, match="one image"):
        net.execute(torch.rand(2, 3, 32, 32))


def torchvision_names(state):
    """Our names from torchvision's."""
    found = {}
    for name, value in state.items():
        parts = name.split(".")
        if parts[0].startswith("layer") and parts[2] == "downsample":
            name = f"group{parts[0][5:]}_ds{parts[1]}.{'.'.join(parts[3:])}"
        elif parts[0].startswith("layer"):
            name = f"group{parts[0][5:]}_layer{parts[1]}.{'.'.join(parts[2:])}"
        found[name] = value
    return found


def lively(net):
    torch.manual_seed(3)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.3, 0.7)
            nn.init.normal_(module.bias, 0, 0.2)
    return net.eval()


DEEP = pytest.mark.slow  # the same form with bottlenecks


@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=DEEP)])
def test_imagenet_form_is_torchvisions(depth):
    reference = lively(getattr(torchvision.models, f"resnet{depth}")())
    static = ResNet(depth=depth, layout="imagenet").eval()
    static.load_state_dict(torchvision_names(reference.state_dict()))
    gated = SkipNet(depth=depth, layout="imagenet").eval()
    missing, unexpected = gated.load_state_dict(static.state_dict(), strict=False)
    assert not unexpected
    assert all("gate" in name or name.startswith("control.") for name in missing)
    image = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        expected = reference((image - static.mean) / static.std)
        opened = gated(image, torch.ones(1, len(gated.units), dtype=torch.bool))
        torch.testing.assert_close(static(image).logits, expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(opened.logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("layout", "depth", "advice"),
    [
        ("cifar", 21, "20 or 26"),
        ("cifar", 2, "8 or 14"),
        ("imagenet", 49, "did you mean 50"),
        ("imagenet", 20, "18"),
    ],
)
def test_depths_that_do_not_exist(layout, depth, advice):
    with pytest.raises(PlanError, match=advice):
        layout_for(layout, depth)
    with pytest.raises(PlanError, match=advice):
        SkipNet(depth=depth, layout=layout)


def test_classes():
    assert ResNet(num_classes=100).fc.out_features == 100
    assert ResNet(layout="imagenet", depth=18).classes == 1000
    with pytest.raises(PlanError, match="num_classes = 0"):
        ResNet(num_classes=0)
