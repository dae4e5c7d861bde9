"""Every target, attack and defense on a simulated accelerator: the same results, and few waits
whatever the batch."""

import copy
from fractions import Fraction

import pytest
import torch
from gated_networks import natural
from simulated_device import accelerator, host

from attacks.accuracy import Accuracy
from attacks.apgd import APGDMargin
from attacks.autoenergy import AutoEnergy, AutoEnergyQuick, AutoEnergySplit, member_attack
from attacks.controls import Contrast, Identity, Noise, Photometric
from attacks.deepsloth import DeepSloth
from attacks.desparsify import DeSparsify
from attacks.genetic import Genetic
from attacks.gradauto import GradAuto
from attacks.gradmdm import GradMDM
from attacks.ilfo import ILFO
from attacks.nes import NES
from attacks.onward import Onward
from attacks.patch import Patch
from attacks.pry import Pry
from attacks.silent import Silent
from attacks.square import Square
from attacks.universal import Universal
from bench.api import Job, Threat, parse_threat
from bench.evaluation import cost
from bench.evaluation.outputs import check_unchanged, freeze
from bench.evaluation.passes import check_precision
from bench.evaluation.view import TargetView
from bench.plugins import registry
from targets.aig import AIG
from targets.avit import AViT
from targets.cascade import Cascade
from targets.defenses.cap import Capped
from targets.defenses.jpeg import JPEG
from targets.defenses.monitor import Monitor
from targets.defenses.smoothing import RandomisedSmoothing
from targets.defenses.transforms import BitDepth, GaussianBlur, Median
from targets.dynamicvit import DynamicViT
from targets.dynconv import DynConv
from targets.fbs import FBS
from targets.manidp import ManiDP
from targets.resnet import ResNet
from targets.sact import SACT
from targets.sdn import SDN
from targets.skipnet import SkipNet
from targets.vit import ViT

LINF = Threat("linf", Fraction(16, 255))
PSNR = Threat("psnr", Fraction(30))

TARGETS = {
    "resnet": lambda: ResNet(depth=8),
    "skipnet": lambda: SkipNet(depth=8),
    "skipnet-hrl": lambda: SkipNet(depth=8, form="hrl"),
    "sact": lambda: SACT(depth=14),
    "act": lambda: SACT(depth=14, halting="act"),
    "manidp": lambda: ManiDP(depth=8),
    "sdn": lambda: SDN(backbone="resnet-8", threshold=0.2),
    "fbs": lambda: FBS(depth=8),
    "aig": lambda: AIG(depth=8),
    "aig-sampled": lambda: AIG(depth=8, gating="sample", draws=2),
    "dynconv": lambda: DynConv(depth=8),
    "cascade": lambda: Cascade(networks=("resnet-8",), sizes=(16, 32), threshold=0.2),
    "vit": ViT,
    "avit": lambda: AViT(gate_scale=4.0, gate_center=3.0),
    "dynamicvit": DynamicViT,
}


def _monitor(target):
    defense = Monitor(false_alarms=0.3)
    return defense.wrap(target, defense.fit(target, natural(16, seed=9)))


def _cap(target):
    return Capped(target, (target.floor + target.ceiling) // 2)


DEFENSES = {
    "jpeg": lambda target: JPEG().wrap(target),
    "bit-depth": lambda target: BitDepth().wrap(target),
    "median": lambda target: Median().wrap(target),
    "gaussian-blur": lambda target: GaussianBlur().wrap(target),
    "smoothing": lambda target: RandomisedSmoothing(draws=2).wrap(target),
    "cap": _cap,
    "monitor": _monitor,
}

ATTACKS = {
    "identity": Identity(),
    "noise": Noise(),
    "contrast": Contrast(),
    "photometric": Photometric(),
    "gradauto": GradAuto(),
    "gradauto-code": GradAuto(**{**GradAuto.presets["code"], "steps": 4}),
    "gradauto-inside": GradAuto(rounding="inside"),
    "ilfo": ILFO(rounds=2),
    "gradmdm": GradMDM(),
    "deepsloth": DeepSloth(**DeepSloth.presets["margins"]),
    "apgd-margin": APGDMargin(),
    "square": Square(),
    "accuracy": Accuracy(),
    "desparsify": DeSparsify(),
    "silent": Silent(),
    "pry": Pry(),
    "pry-concave": Pry(**Pry.presets["concave"]),
    "genetic": Genetic(),
    "nes": NES(),
    "autoenergy-split": AutoEnergySplit(),
    **{
        f"autoenergy-{place}": member_attack(use, params)
        for place, (use, params) in enumerate(AutoEnergy.members)
        if params  # the others are here by their names
    },
}

ATTACKED = {"silent": "avit"}
"""Attacks that a SkipNet has nothing for, and a target that has."""
STILL = ("identity", "noise", "contrast", "photometric")
STEPPING = [name for name in ATTACKS if name not in (*STILL, "gradauto-code")]


def _made(build, wrap=lambda target: target):
    torch.manual_seed(3)
    target = wrap(build().eval().requires_grad_(False))
    freeze(target)
    return target


def _job(images, threat, budget):
    return Job(threat, budget, tuple(f"image-{place}" for place in range(len(images))))


def _run(target, images, attack, threat, budget):
    """(found images, MACs of them, what was used, traces, gradient calls), where `images` are."""
    view = TargetView.of(target, images, budget, attack.access)
    with torch.no_grad():
        labels = target(images).logits.argmax(1)
    found = attack.perturb(view, images, labels, _job(images, threat, budget))
    with torch.no_grad():
        macs = target.macs(target(found).decisions)
    ledger = view.ledger
    used = [ledger.used, ledger.forwards, ledger.backwards, ledger.held, ledger.flipped]
    return found, macs, used, [ledger.trace(place) for place in range(len(images))], ledger


def _same(target, attack, threat=LINF, budget=14, count=5):
    """Run on the CPU and on a device; everything that is recorded is equal."""
    images = natural(count, seed=2)
    here = _run(copy.deepcopy(target), images, attack, threat, budget)
    with accelerator() as device:
        there = copy.deepcopy(target).to("cuda:0")
        found = _run(there, images.to("cuda:0"), attack, threat, budget)
        assert found[0].device == torch.device("cuda:0")
        result = host(found[:4])
    assert device.calls > 0
    assert torch.equal(here[1], result[1])
    assert all(torch.equal(a, b) for a, b in zip(here[2], result[2], strict=True))
    assert torch.allclose(here[0], result[0], rtol=0, atol=1e-4)
    for mine, other in zip(here[3], result[3], strict=True):
        assert [point[:2] for point in mine] == [point[:2] for point in other]


def test_every_attack_is_here():
    combined = {AutoEnergy, AutoEnergyQuick}  # of cells; their members are attacks here
    elsewhere = {Universal, Patch, Onward}  # that learn first; pry, from where another ended
    known = {type(attack) for attack in ATTACKS.values()} | combined | elsewhere
    names = [name for name in registry.names("attack") if "example" not in name]
    assert {registry.load("attack", name) for name in names} <= known


SLOW = pytest.mark.slow  # every target, attack and defense; one of each kind is quick
QUICK = {
    *("skipnet", "sact", "manidp", "sdn", "avit", "jpeg", "cap"),
    *("identity", "gradauto", "pry", "square", "genetic"),
}


def quick_first(*groups):
    """The names of all groups; all but one of each kind marked slow."""
    return [
        pytest.param(name, marks=() if name in QUICK else SLOW, id=name)
        for group in groups
        for name in group
    ]


@pytest.mark.parametrize("name", quick_first(TARGETS))
def test_a_target_gives_the_same_on_a_device(name):
    _same(_made(TARGETS[name]), GradAuto())


@pytest.mark.parametrize("name", quick_first(TARGETS, DEFENSES))
def test_work_is_really_left_out_on_a_device(name):
    """ptflops counts what is declared where one image is executed, with all units off and on."""
    target = _made(TARGETS.get(name, TARGETS["skipnet"]), DEFENSES.get(name, lambda target: target))
    images = natural(1, seed=2)
    with accelerator():
        there = copy.deepcopy(target).to("cuda:0")
        counted = cost.audit_extremes(there, images.to("cuda:0"))
    assert counted == (target.floor, target.ceiling)
    assert (target.floor < target.ceiling) == (name not in ("resnet", "fbs", "vit"))


@pytest.mark.parametrize("name", quick_first(DEFENSES))
def test_a_defense_gives_the_same_on_a_device(name):
    _same(_made(TARGETS["skipnet"], DEFENSES[name]), GradAuto())


@pytest.mark.parametrize("name", quick_first(ATTACKS))
def test_an_attack_gives_the_same_on_a_device(name):
    published = name == "gradauto-code"
    threat = parse_threat("none") if published else LINF
    _same(_made(TARGETS[ATTACKED.get(name, "skipnet")]), ATTACKS[name], threat)


@pytest.mark.parametrize(
    "name", [pytest.param("sdn", marks=SLOW), "sact", pytest.param("manidp", marks=SLOW)]
)
def test_square_and_apgd_on_other_units(name):
    for attack in (Square(), APGDMargin()):
        _same(_made(TARGETS[name]), attack, PSNR)


@pytest.mark.parametrize(
    ("attack", "threat"),
    [(Universal(), LINF), (Patch(), Threat("patch", 8))],
    ids=["universal", "patch"],
)
def test_a_fitted_attack_gives_the_same_on_a_device(attack, threat):
    target, images = _made(TARGETS["skipnet"]), natural(4, seed=5)

    def fitted(target, images):
        view = TargetView.of(target, images, 12, attack.access)
        return attack.fit(view, images, _job(images, threat, 12))

    here = fitted(copy.deepcopy(target), images)
    with accelerator():
        found = host(fitted(copy.deepcopy(target).to("cuda:0"), images.to("cuda:0")))
    assert here.keys() == found.keys()
    assert all(torch.allclose(here[key], found[key], rtol=0, atol=1e-4) for key in here)


def test_two_devices_beside_each_other():
    target, images = _made(TARGETS["skipnet"]), natural(4, seed=2)
    with accelerator(2):
        results = []
        for place in ("cuda:0", "cuda:1"):
            there = copy.deepcopy(target).to(place)
            found = _run(there, images.to(place), GradAuto(), LINF, 14)
            assert found[0].device == torch.device(place)
            results.append(host(found[:3]))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


SIZES = {8: 26, 256: 14}
"""Batches, and the budget of their images."""


def _waits(target, attack, count, threat=LINF, budget=None):
    """(waits inside the attack, its steps, waits by line) on a batch of `count`.

    A step is a gradient, or for a search an evaluation of MACs.
    """
    with accelerator() as device:
        there, images = copy.deepcopy(target).to("cuda:0"), natural(count, 32, 2).to("cuda:0")
        budget = budget or SIZES[count]
        view = TargetView.of(there, images, budget, attack.access)
        labels = torch.zeros(count, dtype=torch.int64, device=images.device)
        steps = []

        def counting(method):
            def counted(self, *args, **kwargs):
                steps.append(1)
                return method(self, *args, **kwargs)

            return counted

        with pytest.MonkeyPatch.context() as patch:
            for name in ("gradients", "macs"):
                patch.setattr(TargetView, name, counting(getattr(TargetView, name)))
            device.reset()
            attack.perturb(view, images, labels, _job(images, threat, budget))
        return device.total, len(steps), dict(device.waits)


ONCE = 24
"""Waits that an attack may have before and behind its steps."""


def test_a_step_waits_at_most_four_times():
    waits, steps, where = _waits(_made(TARGETS["skipnet-hrl"]), GradAuto(), 8)
    assert waits <= 4 * steps + ONCE, where


@pytest.mark.slow  # two runs of every attack, operator by operator
@pytest.mark.parametrize("name", STEPPING)
def test_another_step_waits_at_most_four_times_more(name):
    """What is done once is in both runs."""
    target = _made(TARGETS[ATTACKED.get(name, "skipnet-hrl")])
    fewer, steps, before = _waits(target, ATTACKS[name], 4, budget=20)
    more, later, where = _waits(target, ATTACKS[name], 4, budget=44)
    assert later > steps
    assert more - fewer <= 4 * (later - steps), (before, where)


@pytest.mark.slow  # large batches, operator by operator
@pytest.mark.parametrize("name", STEPPING)
def test_an_attack_waits_four_times_a_step_whatever_the_batch(name):
    target = _made(TARGETS[ATTACKED.get(name, "skipnet-hrl")])
    for count in SIZES:
        waits, steps, where = _waits(target, ATTACKS[name], count)
        assert waits <= 4 * steps + ONCE, (count, where)


@pytest.mark.slow  # large batches, operator by operator
@pytest.mark.parametrize("name", [name for name in TARGETS if name not in ("resnet", "vit")])
def test_a_target_waits_four_times_a_step_whatever_the_batch(name):
    for count in SIZES:
        waits, steps, where = _waits(_made(TARGETS[name]), GradAuto(), count)
        assert waits <= 4 * steps + ONCE, (count, where)


@pytest.mark.slow  # large batches, operator by operator
@pytest.mark.parametrize("name", DEFENSES)
def test_a_defense_waits_four_times_a_step_whatever_the_batch(name):
    target = _made(TARGETS["skipnet-hrl"], DEFENSES[name])
    bound = 4 + (
        name == "monitor"
    )  # whether the alarm went off at all: one look is less than a pass for nothing
    for count in SIZES:
        waits, steps, where = _waits(target, GradAuto(), count)
        assert waits <= bound * steps + ONCE, (count, where)


def test_weights_are_compared_at_once():
    with accelerator() as device:
        target = _made(TARGETS["skipnet"]).to("cuda:0")
        state = freeze(target)
        device.reset()
        check_unchanged(target, state, "the test")
        assert device.total == 1


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_reduced_precision_is_that_of_gradients_alone(precision):
    """The simulation computes in float32 all the same; what is seen is what torch was told."""
    target, seen = _made(TARGETS["skipnet"]), []
    images = natural(3, seed=2)

    def told():
        products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
        return products.allow_tf32, convolutions.allow_tf32, torch.is_autocast_enabled("cuda")

    before = told()
    with accelerator():
        there = copy.deepcopy(target).to("cuda:0")
        check_precision(precision, torch.device("cuda:0"))
        forward = there.forward

        def noted(*args):
            seen.append(told())
            return forward(*args)

        there.forward = noted
        inputs, rows = images.to("cuda:0"), torch.arange(3, device="cuda:0")
        view = TargetView.of(there, inputs, 20, precision=precision)
        view(inputs, rows)
        view.gradients(lambda output: [output.margins.sum(1)], inputs, rows)
        view.macs(inputs, rows)
    assert seen[0] == seen[2] == told() == before
    assert seen[1] == ((True, True, False) if precision == "tf32" else (*before[:2], True))
