"""Defenses by hand, against their contract on every family, and the cap as an integer."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.accuracy import Accuracy
from attacks.apgd import APGDMargin
from attacks.deepsloth import DeepSloth
from attacks.gradauto import GradAuto
from attacks.square import Square
from bench.api import Evaluation, Job, Output, Threat
from bench.codec import through_jpeg
from bench.datasets.base import open_dataset
from bench.errors import PlanError
from bench.evaluation.cost import audit
from bench.evaluation.judge import judge_images
from bench.evaluation.outputs import check_margins, freeze
from bench.evaluation.seeds import seeded
from bench.evaluation.view import TargetView
from bench.image import to_float, to_grid
from bench.testing import ToyTarget, check_target, problems, sample_images
from bench.weights import find, load_entry
from targets.aig import AIG
from targets.avit import AViT
from targets.cascade import Cascade
from targets.defenses.cap import Cap, CapGovernor, Capped
from targets.defenses.jpeg import JPEG
from targets.defenses.monitor import LEAST_RATE, Monitor, Monitored
from targets.defenses.smoothing import RandomisedSmoothing
from targets.defenses.transforms import BitDepth, GaussianBlur, Median
from targets.dynconv import DynConv
from targets.fbs import FBS
from targets.manidp import ManiDP
from targets.sact import SACT
from targets.sdn import SDN
from targets.skipnet import SkipNet

FAMILIES = {
    "skipnet-20-budget@digits-m": SkipNet,
    "sact-20-sact@digits-m": SACT,
    "manidp-20-dynamic@digits-m": ManiDP,
    "sdn-resnet-20-joint@digits-m": SDN,
    "fbs-20-fbs@digits-m": FBS,
    "avit-32x6-p8-avit@digits-m": AViT,
    "cascade-resnet-20-20-32@digits-m": Cascade,
    "aig-20-aig@digits-m": AIG,
    "dynconv-20-dynconv@digits-m": DynConv,
}
DEFENSES = {
    "jpeg": JPEG(),
    "bit-depth": BitDepth(),
    "median": Median(),
    "gaussian-blur": GaussianBlur(),
    "smoothing": RandomisedSmoothing(draws=3),
    "cap": Cap(),
    "monitor": Monitor(),
}


def network(name):
    entry = find(name)
    target = FAMILIES[name](**entry.params)
    load_entry(target, entry)
    freeze(target)
    return target


def pictures(split, count):
    data = open_dataset(f"digits-m:{split}", None)
    return to_float(data.images(list(range(count))))


def defended(target, defense, images):
    return (
        defense.wrap(target, defense.fit(target, images)) if defense.fits else defense.wrap(target)
    )


@pytest.fixture
def toy():
    target = ToyTarget()
    freeze(target)
    return target


SLOW = pytest.mark.slow  # dozens of times the whole contract on trained networks


def wrappings():
    """Every defense on every family. One of each kind is quick: a transformation, one that draws,
    one that learns and runs the network twice."""
    skipnet, exits = "skipnet-20-budget@digits-m", "sdn-resnet-20-joint@digits-m"
    quick = {(skipnet, "jpeg"), (skipnet, "smoothing"), (exits, "monitor")}
    for family in FAMILIES:
        for name in DEFENSES:
            marks = () if (family, name) in quick else SLOW
            yield pytest.param(family, name, id=f"{family}-{name}", marks=marks)


@pytest.mark.parametrize(("family", "name"), list(wrappings()))
def test_a_wrapped_target_is_a_target(family, name):
    target = defended(network(family), DEFENSES[name], pictures("train", 96))
    assert not problems(check_target(target, pictures("test", 4)))
    assert target.undefended.ceiling == network(family).ceiling


@pytest.mark.parametrize("name", DEFENSES)
def test_what_is_handed_on_reaches_the_network_inside(name, toy):
    target = defended(toy, DEFENSES[name], sample_images((3, 8, 8), 8))
    with target.evaluating(mask_grad="ste", surrogate=False, loss=7):
        assert toy.evaluation == Evaluation(mask_grad="ste", surrogate=False, loss=7)
        assert target.evaluation is toy.evaluation
    assert toy.evaluation == Evaluation()
    assert target.undefended is toy
    assert target.forks
    twice = JPEG().wrap(target)
    assert twice.undefended is toy
    with twice.evaluating(mask_grad="ste"):
        assert toy.evaluation.mask_grad == "ste"
    assert toy.evaluation.mask_grad == "none"


def seen_by(defense, images):
    """What a network behind the defense is shown."""
    box = []

    class Inner(ToyTarget):
        def forward(self, images, decisions=None):
            box.append(images)
            return super().forward(images, decisions)

    inner = Inner()
    inner.image_shape = tuple(images.shape[1:])
    with torch.no_grad():
        defense.wrap(inner)(images)
    return box[0]


def test_jpeg_shows_what_pillow_makes_of_the_saved_image():
    images = sample_images((3, 16, 16), 3)
    expected = to_float(through_jpeg((images * 255).round().to(torch.uint8), 60))
    assert torch.equal(seen_by(JPEG(quality=60), images), expected)
    assert not torch.equal(expected, images)


def test_bit_depth_by_hand():
    images = torch.tensor([0.0, 0.1, 0.34, 0.49, 0.51, 1.0]).view(1, 1, 2, 3).expand(1, 3, 2, 3)
    expected = torch.tensor([0.0, 0.0, 1 / 3, 1 / 3, 2 / 3, 1.0]).view(1, 1, 2, 3)
    torch.testing.assert_close(seen_by(BitDepth(bits=2), images)[:, :1], expected)
    torch.testing.assert_close(
        seen_by(BitDepth(bits=8), sample_images((3, 8, 8))), sample_images((3, 8, 8))
    )


def test_median_by_hand():
    images = torch.arange(9.0).view(1, 1, 3, 3).expand(1, 3, 3, 3) / 10
    images = images.clone()
    images[:, :, 1, 1] = 1.0  # an outlier
    found = seen_by(Median(), images)
    assert found[0, 0, 1, 1] == pytest.approx(0.5)  # of 0 1 2 3 5 6 7 8 10
    assert found[0, 0, 0, 0] == pytest.approx(0.1)  # of 0 0 0 0 1 1 3 3 10, the corner repeated


def test_blur_by_hand_and_its_macs_are_counted(toy):
    weights = [math.exp(-0.5 * (x / 0.5) ** 2) for x in (-2, -1, 0, 1, 2)]
    line = torch.tensor([w / sum(weights) for w in weights])
    images = torch.zeros(1, 3, 9, 9)
    images[:, :, 4, 4] = 1
    found = seen_by(GaussianBlur(sigma=0.5), images)
    torch.testing.assert_close(found[0, 1, 2:7, 2:7], torch.outer(line, line))
    target = GaussianBlur(sigma=0.5).wrap(toy)
    assert target.overhead == 3 * 8 * 8 * 25
    assert target.floor == toy.floor + 4800
    assert target.ceiling == toy.ceiling + 4800
    assert audit(target, sample_images((3, 8, 8))[:1]).macs >= target.floor
    with pytest.raises(PlanError, match="wider than an image"):
        GaussianBlur(sigma=2).wrap(toy)


def test_the_surrogate_of_rounding_is_the_identity(toy):
    target = BitDepth().wrap(toy)
    images = sample_images((3, 8, 8)).requires_grad_()
    (through,) = torch.autograd.grad(target(images).logit_margins.sum(), images)
    shown = target.before(images.detach()).requires_grad_()
    (inside,) = torch.autograd.grad(toy(shown).logit_margins.sum(), shown)
    torch.testing.assert_close(through, inside)


@pytest.mark.parametrize("name", ["jpeg", "bit-depth"])
def test_surrogates_can_be_switched_off(name, toy):
    target = DEFENSES[name].wrap(toy)
    images = sample_images((3, 8, 8)).requires_grad_()
    assert target(images).logit_margins.requires_grad
    with target.evaluating(surrogate=False):
        assert not target(images).logit_margins.requires_grad


def test_smoothing_draws_from_its_seeds_alone(toy):
    target = RandomisedSmoothing(sigma=0.1, draws=5).wrap(toy)
    images = sample_images((3, 8, 8))[:1].expand(4, -1, -1, -1) * 0.5 + 0.25
    with torch.no_grad(), seeded(target, torch.tensor([3, 4, 3, 5])):
        logits = target(images).logits
    assert torch.equal(logits[0], logits[2])
    assert not torch.equal(logits[0], logits[1])
    with seeded(target, torch.tensor([1, 2, 3, 4])):
        noise = target.before(images) - images
    assert noise.std() == pytest.approx(0.1, rel=0.1)
    assert target.evaluation.seeds is None


def test_smoothing_around_smoothing_adds_noise_of_its_own(toy):
    images = torch.full((1, 3, 8, 8), 0.5)
    inside = RandomisedSmoothing(sigma=0.05, draws=9).wrap(toy)
    outside = RandomisedSmoothing(sigma=0.05, draws=3).wrap(inside)
    assert outside.draws == 9
    with seeded(outside, torch.tensor([5])):
        first, second = outside.before(images) - images, inside.before(images) - images
    assert not torch.equal(first, second)


# The cap


def governed(wanted, limit, target):
    """What is granted of (1, U) wants, asked unit by unit."""
    governor = CapGovernor(target, limit, 1, torch.device("cpu"))
    for unit in range(wanted.shape[1]):
        governor(unit, torch.ones(1, 1), wanted[:, unit : unit + 1])
    return governor.granted


def test_the_governor_by_hand(toy):
    """Floor 7203, a block 9472: under 30000 two blocks fit, whichever ask first."""
    every = torch.ones(1, 3, dtype=torch.bool)
    assert governed(every, 30000, toy).tolist() == [[True, True, False]]
    assert governed(torch.tensor([[False, True, True]]), 30000, toy).tolist() == [
        [False, True, True]
    ]
    assert governed(every, 7203, toy).tolist() == [[False, False, False]]
    assert governed(every, 35619, toy).tolist() == [[True, True, True]]
    assert governed(every, 35618, toy).tolist() == [[True, True, False]]


def test_inside_a_group_the_largest_margins_run(toy):
    governor = CapGovernor(toy, 7203 + 9472, 2, torch.device("cpu"))
    margins = torch.tensor([[0.1, 0.9, 0.5], [0.1, 0.2, -1.0]])
    granted = governor(0, margins, margins > 0)
    assert granted.tolist() == [[False, True, False], [False, True, False]]


def test_the_margins_of_what_was_held_back_say_so(toy):
    target = Capped(toy, 20000)
    images = sample_images((3, 8, 8))
    with torch.no_grad():
        free, capped = toy(images), target(images)
    held = free.decisions & ~capped.decisions
    assert bool(held.any())
    assert bool((capped.margins[held] < 0).all())
    assert bool((capped.logit_margins[held] < 0).all())
    check_margins(capped, target)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0.0, 1.0), bias=st.floats(-6, 6))
def test_no_margins_exceed_the_cap(seed, share, bias):
    """Whatever the gates say, and however the groups are cut."""
    target = ToyTarget()
    limit = int(target.floor + share * (target.ceiling - target.floor))
    generator = torch.Generator().manual_seed(seed)
    governor = CapGovernor(target, limit, 16, torch.device("cpu"))
    first = 0
    while first < 3:
        size = int(torch.randint(1, 4 - first, (1,), generator=generator)) if first < 2 else 1
        margins = torch.randn(16, size, generator=generator) * 3 + bias
        granted = governor(first, margins, margins > 0)
        assert not bool((granted & ~(margins > 0)).any())
        first += size
    assert int(target.macs(governor.granted).max()) <= limit


BETWEEN = pytest.mark.slow  # on every family; a cap at the floor binds most
MANY = pytest.mark.slow  # thousands of units each; SACT and FBS have as many
CAPPED = [
    pytest.param(family, marks=MANY if family.startswith(("dynconv", "manidp")) else ())
    for family in FAMILIES
]


@pytest.mark.parametrize("family", CAPPED)
@pytest.mark.parametrize(
    "share", [0.0, pytest.param(0.3, marks=BETWEEN), pytest.param(0.8, marks=BETWEEN)]
)
def test_the_cap_holds_on_every_family_for_any_image(family, share):
    inner = network(family)
    limit = int(inner.floor + share * (inner.ceiling - inner.floor))
    target = Capped(inner, limit)
    generator = torch.Generator().manual_seed(1)
    images = torch.cat(
        [
            pictures("test", 4),
            torch.rand(4, 3, 32, 32, generator=generator),
            torch.zeros(1, 3, 32, 32),
            torch.ones(1, 3, 32, 32),
        ]
    )
    with torch.no_grad():
        output = target(images)
    assert int(target.macs(output.decisions).max()) <= limit
    for i in (0, 5):  # a picture, and noise
        assert audit(target, images[i : i + 1]).macs <= limit
    assert target.bound <= limit
    assert target.ceiling <= limit


ATTACKERS = (
    GradAuto(offset=0.1),
    APGDMargin(norm="linf"),
    DeepSloth(),
    Square(),
    Accuracy(),
    GradAuto(knows="network"),
)


@pytest.mark.slow  # six attacks on each of four trained networks behind two defenses
@pytest.mark.parametrize("family", [name for name in FAMILIES if not name.startswith("fbs")])
def test_no_attack_exceeds_the_cap(family):
    """Under a ball that hides nothing, forward and execute alike, and exactly as many MACs as
    ptflops counts."""
    inner = network(family)
    images = pictures("test", 4)
    limit = int(Cap().fit(inner, pictures("train", 48))["limit"])
    target = JPEG(quality=90).wrap(Capped(inner, limit))
    freeze(target)
    threat = Threat("linf", Fraction(48, 255))
    dearest = 0
    for attack in ATTACKERS:
        view = TargetView.of(target, images, 18, attack.access)
        with torch.no_grad():
            labels = target(images).logits.argmax(1)
        job = Job(threat, 18, tuple(f"i{k}" for k in range(len(images))))
        saved = judge_images(
            attack.perturb(view, images.clone(), labels, job), to_grid(images), threat
        ).saved
        with torch.no_grad():
            macs = target.macs(target(to_float(saved)).decisions)
        assert int(macs.max()) <= limit
        counted = audit(target, to_float(saved)[:1])
        assert counted.macs == int(macs[0]) <= limit
        dearest = max(dearest, int(macs.max()))
    assert dearest > 0.9 * limit, "the attacks do fill it"


def test_a_cap_that_cannot_be(toy):
    with pytest.raises(PlanError, match="spends 7203 even with everything closed"):
        Capped(toy, 7000)

    class Unruly(ToyTarget):
        admits = False

    with pytest.raises(
        PlanError, match=r"Unruly does not pass its decisions through Target\.admit"
    ):
        Capped(Unruly(), 20000)
    with pytest.raises(PlanError, match="held-out"):
        Cap().wrap(toy)


def test_the_held_out_quantile_is_the_limit(toy):
    images = sample_images((3, 8, 8), 10)
    with torch.no_grad():
        spent = sorted(toy.macs(toy(images).decisions).tolist())
    assert int(Cap(quantile=0.5).fit(toy, images)["limit"]) == spent[5]
    assert int(Cap(limit=0.5).fit(toy, images)["limit"]) == toy.ceiling // 2


# The monitor


def test_the_score_is_the_likelihood_of_the_pattern(toy):
    images = sample_images((3, 8, 8), 12)
    learnt = Monitor(false_alarms=0.0).fit(toy, images)
    with torch.no_grad():
        ran = toy(images).decisions.double()
    rate = ran.mean(0).clamp(LEAST_RATE, 1 - LEAST_RATE)
    likely = -(ran * rate.log() + (1 - ran) * (1 - rate).log()).sum(1)
    torch.testing.assert_close(ran @ learnt["weight"] + learnt["bias"], likely)
    assert float(learnt["limit"]) >= float(likely.max())
    target = Monitor(false_alarms=0.0).wrap(toy, learnt)
    with torch.no_grad():
        assert not bool(target(images).decisions[:, -1].any())


def test_an_alarm_runs_everything_a_second_time(toy):
    weight = torch.tensor([1.0, 1.0, 1.0])
    target = Monitored(toy, weight, 0.0, 1.5)  # two open blocks are an alarm
    freeze(target)
    images = sample_images((3, 8, 8))
    with torch.no_grad():
        output, plain = target(images), toy(images)
        whole = toy(images, torch.ones(len(images), 3, dtype=torch.bool))
    fired = plain.decisions.sum(1) >= 2
    assert bool(fired.any())
    assert output.decisions[:, -1].tolist() == fired.tolist()
    torch.testing.assert_close(
        output.logits, torch.where(fired[:, None], whole.logits, plain.logits)
    )
    expected = toy.macs(plain.decisions) + 4 + fired * toy.ceiling
    assert target.macs(output.decisions).tolist() == expected.tolist()
    assert target.ceiling == 2 * toy.ceiling + 4
    assert audit(target, images[int(fired.nonzero()[0])][None]).macs == int(
        expected[int(fired.nonzero()[0])]
    )


def test_the_score_has_a_gradient_where_a_decision_can_still_turn(toy):
    target = Monitored(toy, torch.tensor([1.0, 1.0, 1.0]), 0.0, 3.5)
    images = sample_images((3, 8, 8)).requires_grad_()
    output: Output = target(images)
    raised = torch.autograd.grad(-output.margins[:, -1].sum(), images, retain_graph=True)[0]
    closed = ~output.decisions[:, :-1].all(1)
    assert (raised.flatten(1).abs().amax(1) > 0).tolist() == closed.tolist()
    with target.evaluating(surrogate=False):
        (blind,) = torch.autograd.grad(target(images).margins[:, -1].sum(), images)
    assert not bool(blind.any())


def test_a_cap_goes_inside_a_monitor_not_around_it(toy):
    watched = Monitored(toy, torch.ones(3), 0.0, 1.5)
    with pytest.raises(PlanError, match="admit"):
        Capped(watched, 30000)
    target = Monitored(Capped(toy, 20000), torch.ones(3), 0.0, 1.5)
    assert not problems(check_target(target))


def test_defenses_that_learn_say_what_they_need(toy):
    with pytest.raises(PlanError, match="needs clean images"):
        Monitor().wrap(toy)
