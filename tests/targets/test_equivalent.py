"""What attacks are given in a target's place computes the same, to float noise."""

import pytest
import torch
from gated_networks import natural
from torch import nn

from bench.errors import ContractBroken
from bench.evaluation.equivalence import check_equivalent
from bench.evaluation.outputs import check_unchanged, freeze
from targets.aig import AIG
from targets.cascade import Cascade
from targets.defenses.cap import Capped
from targets.defenses.jpeg import JPEG
from targets.defenses.monitor import Monitor
from targets.defenses.smoothing import RandomisedSmoothing
from targets.defenses.transforms import BitDepth, GaussianBlur, Median
from targets.dynconv import DynConv
from targets.fbs import FBS
from targets.manidp import ManiDP
from targets.resnet import ResNet
from targets.sact import SACT
from targets.sdn import SDN
from targets.skipnet import SkipNet


def _monitor(target):
    defense = Monitor(false_alarms=0.3)
    return defense.wrap(target, defense.fit(target, natural(16, seed=9)))


NETWORKS = {
    "resnet": lambda: ResNet(depth=20),
    "skipnet": lambda: SkipNet(depth=20),
    "skipnet-ff": lambda: SkipNet(depth=8, gate="ff1"),
    "skipnet-hrl": lambda: SkipNet(depth=8, form="hrl"),
    "sact": lambda: SACT(depth=20),
    "act": lambda: SACT(depth=8, halting="act"),
    "manidp": lambda: ManiDP(depth=20),
    "sdn": lambda: SDN(backbone="resnet-20", threshold=0.2),
    "sdn-vgg": lambda: SDN(backbone="vgg-16-bn", threshold=0.2),
    "fbs": lambda: FBS(depth=8),
    "aig": lambda: AIG(depth=20),
    "aig-sampled": lambda: AIG(depth=8, gating="sample"),
    "dynconv": lambda: DynConv(depth=20),
    "cascade": lambda: Cascade(networks=("resnet-8", "resnet-14"), threshold=0.2),
    "cascade-timm": lambda: Cascade(
        networks=("test_efficientnet",), sizes=(32, 64), num_classes=10, threshold=0.12
    ),
}
DEFENDED = {
    "jpeg": lambda target: JPEG().wrap(target),
    "bit-depth": lambda target: BitDepth().wrap(target),
    "median": lambda target: Median().wrap(target),
    "gaussian-blur": lambda target: GaussianBlur().wrap(target),
    "smoothing": lambda target: RandomisedSmoothing(draws=2).wrap(target),
    "cap": lambda target: Capped(target, (target.floor + target.ceiling) // 2),
    "monitor": _monitor,
}
FOLDED = {"resnet": 21, "skipnet": 21, "sact": 23, "manidp": 21, "sdn": 21, "sdn-vgg": 13}
FOLDED |= {"cascade": 24, "cascade-timm": 13, "aig": 21, "dynconv": 21}
"""Normalizations that stand right behind a convolution."""


def _made(name):
    torch.manual_seed(1)
    target = NETWORKS[name]() if name in NETWORKS else DEFENDED[name](NETWORKS["skipnet-hrl"]())
    for module in target.modules():  # statistics of a network that was trained
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.7, 1.3)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.normal_(module.bias, 0, 0.1)
    freeze(target)
    return target


def _slope(target, images):
    """(output, gradient of a sum over margins and logits), as a first step takes it."""
    images = images.clone().requires_grad_()
    output = target(images)
    loss = torch.relu(-output.logit_margins).sum() + output.logits[:, 0].sum()
    (grad,) = torch.autograd.grad(loss, images)
    return output.detach(), grad


@pytest.mark.parametrize("name", [*NETWORKS, *DEFENDED])
def test_outputs_and_first_gradients_agree(name):
    target = _made(name)
    images = natural(8, target.image_shape[1], seed=4)
    made = target.equivalent()
    freeze(made)
    assert made is not target
    own, expected = _slope(target, images)
    seen, grad = _slope(made, images)
    check_equivalent(target, seen, own, "image")
    same = (seen.decisions == own.decisions).all(1)
    assert int(same.sum()) >= 7
    apart = (grad - expected).flatten(1).abs().amax(1) / expected.flatten(1).abs().amax(1)
    assert int((apart < 1e-4).sum()) >= 7, (
        apart
    )  # float noise turns a ReLU at its kink on one image
    assert torch.equal(made.macs(own.decisions), target.macs(own.decisions))
    assert (made.floor, made.ceiling, made.bound) == (target.floor, target.ceiling, target.bound)


@pytest.mark.parametrize("name", FOLDED)
def test_normalizations_are_folded_and_the_original_is_not_touched(name):
    target = _made(name)
    state = freeze(target)

    def norms(network):
        return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())

    assert norms(target) - norms(target.equivalent()) == FOLDED[name]
    check_unchanged(target, state, "folding")


def test_an_equivalent_that_is_not_one_is_refused():
    class Other(SkipNet):
        def equivalent(self):
            made = super().equivalent()
            made.fc.bias += 0.1
            return made

    target = Other(depth=8)
    freeze(target)
    images = natural(4)
    with torch.no_grad(), pytest.raises(ContractBroken, match="equivalent network differ by"):
        check_equivalent(target, target.equivalent()(images), target(images), "image")


def test_a_scale_below_zero_is_not_folded_forwards():
    target = _made("sact")
    turned = target.blocks[0][1].preact
    turned.weight[0] = -0.5
    freeze(target)
    made, images = target.equivalent(), natural(8, seed=4)
    assert isinstance(made.blocks[0][1].preact, nn.BatchNorm2d)
    assert not isinstance(made.blocks[0][2].preact, nn.BatchNorm2d)
    check_equivalent(target, made(images).detach(), target(images).detach(), "image")
