import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, LinearGates, begin, frozen, pictures

from attacks.box import ilfo_box
from attacks.ilfo import ILFO
from bench.image import difference, inside, squared_sum, to_grid
from bench.plugins.declarations import read_class

CODE = ILFO(**ILFO.presets["code"])


def attack(attacker: ILFO, target, images, budget, threat=PSNR35):
    view, job = begin(target, images, budget, threat)
    return attacker.perturb(view, images, target(images).logits.argmax(1), job), view


def released_script(network, x, steps, c):
    """ILFO's published loop written again from its description, in CIFAR-normalised space and
    float64: the smallest-loss iterate.
    """
    best, kept = torch.full((len(x),), torch.inf, dtype=torch.float64), x.clone()
    delta = torch.zeros_like(x, requires_grad=True)
    adam = torch.optim.Adam([delta], lr=5e-4)
    for _ in range(steps):
        moved = (torch.tanh(x + delta) + 1) / 2 * (2.5 + 2.22) - 2.22
        gates = network(moved)
        loss = c * torch.relu(0.5 - gates).sum(1) + (moved - x).square().sum((1, 2, 3))
        for row in range(len(x)):
            if loss[row] < best[row]:
                best[row], kept[row] = loss[row].detach(), moved[row].detach()
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
    return kept


@pytest.mark.parametrize("c", [1e5, 3.0])
def test_code_preset_is_the_released_script(c):
    mean = torch.tensor([0.4914, 0.4822, 0.4465], dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor([0.2023, 0.1994, 0.2010], dtype=torch.float64).view(1, 3, 1, 1)
    target = frozen(ConvGates().double())
    images = pictures(4).double()
    units = len(target.units)
    expected = (
        released_script(
            lambda x: target(x * std + mean).margins + 0.5, (images - mean) / std, 5, c * units
        )
        * std
        + mean
    )
    params = {
        **ILFO.presets["code"],
        "steps": 5,
        "c": c,
    }  # `broadcast` multiplies c by the number of units
    adversarial, view = attack(ILFO(**params), target, images, 1000, NONE)
    assert float((adversarial - expected.clamp(0, 1)).abs().max()) < 1e-5
    assert view.ledger.forwards.tolist() == [5] * 4
    assert bool((target(images).margins < 0).any(1).all())


def test_a_step_alone_equals_the_step_in_a_batch_of_64():
    target, images = frozen(ConvGates()), pictures(64)
    for attacker in (ILFO(), CODE):
        looks = {}
        for name, rows in {"batch": slice(None), "alone": slice(17, 18)}.items():
            some = images[rows]
            view, _ = begin(target, some, 10)
            box = ilfo_box(attacker.box, view.image_shape)
            place = box.place(box.start(some), some, NONE)
            looks[name] = (
                attacker.step_rule(view, some)
                .evaluate(place, torch.arange(len(some)), torch.zeros(len(some)))
                .gradient
            )
        scale = float(looks["batch"].abs().max())
        assert scale > 0
        assert float((looks["batch"][17] - looks["alone"][0]).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("threat", [PSNR35, LINF8, NONE], ids=str)
def test_recovers_inside_its_threat_and_its_budget(threat):
    target, images = frozen(ConvGates()), pictures(16)
    before = images.clone()
    adversarial, view = attack(ILFO(), target, images, 150, threat)
    assert torch.equal(images, before)
    assert bool((view.left >= 0).all())
    assert bool(inside(difference(to_grid(adversarial), to_grid(images)), threat).all())
    clean, won = (target.macs(target(x).decisions).double().mean() for x in (images, adversarial))
    assert won - clean > 0.2 * (target.ceiling - clean)


def test_the_search_finds_a_constant_for_each_image():
    """One gate, three images at different distances from it: each opens, and far nearer than with
    one big constant.

    A constant too big drowns the distance, and Adam then moves all pixels alike, the useless ones
    too.
    """
    weight = torch.randn(1, 48, generator=torch.Generator().manual_seed(0)).abs() ** 3
    images = torch.stack([torch.full((3, 4, 4), level / 255) for level in (60, 100, 120)])
    target = frozen(LinearGates(weight, -weight.sum(1) * 130 / 255, (3, 4, 4)))
    searched, _ = attack(
        ILFO(**{**ILFO.presets["clean"], "steps": 60, "rounds": 6}), target, images, 5000, NONE
    )
    fixed, _ = attack(
        ILFO(**{**ILFO.presets["clean"], "steps": 60, "rounds": 1, "c": 1e6}),
        target,
        images,
        5000,
        NONE,
    )
    for adversarial in (searched, fixed):
        assert bool(target(adversarial).decisions.all())
    near, far = (
        squared_sum(difference(to_grid(found), to_grid(images))) for found in (searched, fixed)
    )
    assert bool((near <= far).all())
    assert int(near.sum()) < int(far.sum())


def test_the_search_stops_paying_for_what_is_won():
    """Inside a ball an image leaves at the ceiling.

    One that cannot get there spends the budget on larger constants.
    """
    target = frozen(LinearGates(torch.full((1, 48), 1.0), torch.tensor([-20.2]), (3, 4, 4)))
    images = torch.stack([torch.full((3, 4, 4), level / 255) for level in (107, 20)])
    adversarial, view = attack(ILFO(), target, images, 150)
    assert target(adversarial).decisions.flatten().tolist() == [True, False]
    assert int(view.ledger.used[0]) < 40
    assert int(view.ledger.used[1]) > 140


def test_presets():
    target = frozen(ConvGates())
    for name in ("code", "paper"):
        attacker = ILFO(**ILFO.presets[name])
        assert attacker.supports(target, NONE) is None
        assert attacker.supports(target, PSNR35) is not None
    assert ILFO(**ILFO.presets["clean"]).supports(target, PSNR35) is None
    assert (CODE.c, CODE.lr, CODE.steps, CODE.iterate) == (1e5, 5e-4, 1000, "loss")


def test_parameters_are_read_without_importing_torch():
    def unreadable():
        raise AssertionError("the source does not tell; a plan would import torch")

    facts = read_class("attacks.ilfo", "ILFO", unreadable)
    assert facts.parameters["rounds"].default == 3
    for preset in facts.presets.values():
        assert set(preset) <= set(facts.parameters)
