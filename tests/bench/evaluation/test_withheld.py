"""While code of an attack runs, nobody but the view can use the weights of what is attacked."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from bench.contracts.threat import parse_threat
from bench.errors import ContractBroken
from bench.evaluation.meter import ForwardMeter
from bench.evaluation.sealed_view import SealedView
from bench.evaluation.target_checks import copy_target
from bench.evaluation.view import TargetView
from bench.evaluation.withheld import Weights, without_weights
from bench.testing import ToyTarget, sample_images
from targets.avit import AViT
from targets.defenses.monitor import Monitor
from targets.manidp import ManiDP
from targets.sact import SACT
from targets.sdn import SDN
from targets.skipnet import SkipNet

LINF = parse_threat({"norm": "linf", "eps": "8/255"})
ROWS = torch.arange(6)


class Rich(ToyTarget):
    """Holds weights in every way that a module can."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(4, 4)
        self.loose = torch.ones(4)
        self.listed = [torch.ones(4), {"inner": (torch.ones(4),)}]
        self.register_buffer("scale", torch.ones(1))
        self.register_buffer("count", torch.ones(1, dtype=torch.int64))

    def macs(self, decisions):
        """Prices may be computed from floats; they are free."""
        return super().macs(decisions) * self.scale.to(torch.int64)


@pytest.fixture
def target():
    return Rich().eval().requires_grad_(False)


@pytest.fixture
def images(target):
    return sample_images(target.image_shape)


USES = {
    "call": lambda target, x: target(x),
    "execute": lambda target, x: target.execute(x[:1]),
    "method": lambda target, x: target.forward(x),
    "method-of-the-class": lambda target, x: type(target).forward(target, x),
    "method-of-a-base": lambda target, x: ToyTarget.forward(target, x),
    "module": lambda target, x: target.stem(x),
    "method-of-a-module": lambda target, x: nn.Conv2d.forward(target.stem, x),
    "function-of-a-weight": lambda target, x: nn.functional.conv2d(x, target.stem.weight),
    "weights-in-a-list": lambda target, x: torch.cat([target.stem.weight, target.stem.weight]),
    "value": lambda target, x: target.head.weight.tolist(),
    "item": lambda target, x: target.head.weight[0],
    "data": lambda target, x: target.head.weight.data,
    "written": lambda target, x: target.head.weight.fill_(0),
    "buffer": lambda target, x: target.scale + 1,
    "attribute": lambda target, x: target.loose + 1,
    "list": lambda target, x: target.listed[0] * 1,
    "list-in-a-list": lambda target, x: target.listed[1]["inner"][0] * 1,
    "lstm": lambda target, x: nn.LSTM.forward(target.rnn, torch.zeros(1, 1, 4)),
    "state": lambda target, x: target.state_dict(),
    "copy": lambda target, x: copy.deepcopy(target)(x),
    "copied-attributes": lambda target, x: vars(target.stem)["_parameters"]["weight"] * 1,
    "undefended": lambda target, x: target.undefended(x),
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_while_an_attack_runs_nothing_else_can_be_evaluated(target, images, use):
    expected = target(images).logits
    meter = ForwardMeter(target)
    with pytest.raises(ContractBroken, match="it used the weights"), meter.withheld("it"):
        use(target, images)
    with (
        pytest.raises(ContractBroken, match="it used the weights"),
        meter.withheld("it"),
        contextlib.suppress(ContractBroken),
    ):
        use(target, images)
    assert torch.equal(target(images).logits, expected), "they are back"


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_what_supports_is_shown_cannot_be_evaluated_then_or_later(target, images, use):
    expected = target(images).logits
    shown = without_weights(target)
    with pytest.raises(ContractBroken, match="without its weights"):
        use(shown, images)
    assert torch.equal(target(images).logits, expected)
    again = copy_target(shown)
    with pytest.raises(ContractBroken, match="without its weights"):
        use(again, images)


NETWORKS = {
    "skipnet-lstm": lambda: SkipNet(depth=8, form="hrl"),
    "sact": lambda: SACT(depth=14),
    "manidp": lambda: ManiDP(depth=8),
    "sdn": lambda: SDN(backbone="resnet-8", threshold=0.2),
    "avit": AViT,
    "monitor": lambda: _watched(SkipNet(depth=8).eval().requires_grad_(False)),
}


def _watched(target):
    defense = Monitor(false_alarms=0.5)
    return defense.wrap(target, defense.fit(target, sample_images(target.image_shape, 8)))


@pytest.mark.parametrize("made", NETWORKS.values(), ids=NETWORKS)
def test_all_else_about_a_target_is_there_to_see(made):
    torch.manual_seed(0)
    target = made().eval().requires_grad_(False)
    target = target.equivalent().eval().requires_grad_(False)
    shown = without_weights(target)
    extremes = torch.cat(target.extremes())
    assert type(shown) is type(target)
    assert (shown.undefended is shown) == (target.undefended is target)
    assert torch.equal(shown.macs(extremes), target.macs(extremes))
    assert torch.equal(shown.marginal_macs(extremes), target.marginal_macs(extremes))
    for name in ("classes", "image_shape", "draws", "forks", "admits", "floor", "ceiling"):
        assert getattr(shown, name) == getattr(target, name)
    assert shown.units.name == target.units.name
    assert repr(shown) == repr(target)
    for there, here in zip(shown.parameters(), target.parameters(), strict=True):
        assert (there.shape, there.dtype, there.device) == (here.shape, here.dtype, here.device)
        assert isinstance(there, nn.Parameter)
    x = sample_images(target.image_shape, 2)
    with pytest.raises(ContractBroken, match="without its weights"):
        shown(x)
    assert bool(torch.isfinite(target(x).logits).all())


def test_the_view_evaluates_as_ever(target, images):
    """And the weights are away wherever it calls the attack."""
    meter = ForwardMeter(target)
    seen = []

    def losses(output):
        seen.append(meter._weights.are_away)
        return [output.logits.sum(1), output.logit_margins.sum(1)]

    def edit(loss, unit, main, gate):
        seen.append(meter._weights.are_away)
        return main, gate

    found = []
    for given in (None, meter):
        view = SealedView(TargetView.of(target, images, 40, meter=given))
        with meter.withheld("it") if given else contextlib.nullcontext():
            _, gradients = view.gradients(losses, images, ROWS)
            _, edited = view.using("ste").gradients(losses, images, ROWS, at_fork=edit)
            decisions = view(images, ROWS).decisions
            found.append(
                [
                    *(*gradients, *edited, decisions),
                    *(view.macs(images, ROWS), view.price(decisions)),
                    *(view.marginal_macs(decisions), torch.tensor([view.floor, view.ceiling])),
                ]
            )
            assert meter._weights.are_away == (given is not None)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert seen == [False] * (len(seen) // 2) + [True] * (len(seen) // 2)
    assert len(seen) >= 8
    assert not meter._weights.are_away
    assert meter.uses == 0


@pytest.mark.parametrize("where", ["losses", "fork"])
def test_in_the_middle_of_an_evaluation_the_attack_cannot_use_them(target, images, where):
    meter = ForwardMeter(target)
    view = SealedView(TargetView.of(target, images, 40, meter=meter)).using("ste")

    def losses(output):
        if where == "losses":
            target.stem(images)
        return [output.logits.sum(1)]

    def edit(loss, unit, main, gate):
        if where == "fork":
            target.stem(images)
        return main, gate

    with pytest.raises(ContractBroken, match="it used the weights"), meter.withheld("it"):
        view.gradients(losses, images, ROWS, at_fork=edit)
    assert not meter._weights.are_away


def test_errors_of_an_attack_put_the_weights_back(target, images):
    meter = ForwardMeter(target)
    with pytest.raises(ZeroDivisionError), meter.withheld("it"):
        raise ZeroDivisionError
    assert bool(torch.isfinite(target(images).logits).all())


def test_what_is_written_in_their_place_is_lost_and_what_changed_before_is_not(target):
    def refuse():
        raise AssertionError

    weights = Weights((target,), refuse)
    target.loose = fresh = torch.zeros(4)
    weights.move(away=True)
    weights.move(away=True)
    target.head.weight = nn.Parameter(torch.zeros(4, 4))
    del target.stem._parameters["weight"]
    weights.move(away=False)
    weights.move(away=False)
    assert target.head.weight.any()
    assert target.stem.weight.any()
    assert target.loose is fresh
