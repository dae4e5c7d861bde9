"""Penalties of a gap: values and slopes against the formulas, their text, and every attack's."""

import dataclasses
import math
from fractions import Fraction

import pytest
import torch

from attacks.accuracy import Accuracy
from attacks.apgd import APGDMargin
from attacks.deepsloth import DeepSloth
from attacks.gradauto import GradAuto
from attacks.gradmdm import GradMDM
from attacks.ilfo import ILFO
from attacks.objective import MarginLoss
from attacks.penalties import Bounded, Hinge, Log, Power, parse_penalty
from bench.api import Threat
from bench.errors import PlanError
from bench.plans.resolve import load_plan
from tests.support.gated_toys import LinearGates, begin, frozen

GAPS = [0.0, 1e-6, 0.0007, 0.02, 0.5, 3.0]

SLOW = {
    "hinge": (Hinge(), lambda g: g, lambda g: 1.0),
    "log": (Log(temperature=0.01), lambda g: math.log(1 + g / 0.01), lambda g: 1 / (0.01 + g)),
    "power": (
        Power(exponent=0.5, temperature=0.1),
        lambda g: 2 * (math.sqrt(1 + g / 0.1) - 1),
        lambda g: 1 / (0.1 * math.sqrt(1 + g / 0.1)),
    ),
    "negative-power": (
        Power(exponent=-1.0, temperature=0.1),
        lambda g: g / (0.1 + g),
        lambda g: 0.1 / (0.1 + g) ** 2,
    ),
    "bounded": (
        Bounded(temperature=0.2),
        lambda g: 2 / (1 + math.exp(-g / 0.2)) - 1,
        lambda g: 2 / 0.2 * math.exp(-g / 0.2) / (1 + math.exp(-g / 0.2)) ** 2,
    ),
}


@pytest.mark.parametrize("name", SLOW)
def test_values_and_slopes_are_those_of_the_formula(name):
    penalty, value, slope = SLOW[name]
    gap = torch.tensor(GAPS, dtype=torch.float64, requires_grad=True)
    found = penalty(gap)
    (gradient,) = torch.autograd.grad(found.sum(), gap)
    assert found.tolist() == pytest.approx([value(g) for g in GAPS], abs=1e-12)
    assert gradient.tolist() == pytest.approx([slope(g) for g in GAPS])
    assert found[0] == 0
    assert bool((found.diff() > 0).all())
    assert bool((gradient.diff() <= 0).all())


def test_the_power_goes_over_into_the_logarithm():
    gap = torch.tensor(GAPS, dtype=torch.float64)
    near = Power(exponent=1e-6, temperature=0.01)(gap)
    assert near.tolist() == pytest.approx(Log(temperature=0.01)(gap).tolist(), rel=1e-4)


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        pytest.param("hinge", Hinge(), id="name"),
        pytest.param("log(temperature=0.01)", Log(temperature=0.01), id="parameter"),
        pytest.param(
            " power(exponent=-0.5, offset=1e-3, weighting='uniform') ",
            Power(exponent=-0.5, offset=1e-3, weighting="uniform"),
            id="several",
        ),
        pytest.param("bounded()", Bounded(), id="no-parameters"),
    ],
)
def test_a_penalty_is_read_from_its_text(text, penalty):
    assert parse_penalty(text) == penalty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("lgo", "did you mean 'log'", id="name"),
        pytest.param("log(temprature=1)", "did you mean 'temperature'", id="parameter"),
        pytest.param("log(0.1)", "expected a penalty such as", id="positional"),
        pytest.param("log(temperature='warm')", "is a number, got 'warm'", id="type"),
        pytest.param("log(temperature=0)", "temperature is above 0", id="zero"),
        pytest.param("power(exponent=0)", "exponent is at most 1 and not 0", id="exponent"),
        pytest.param("log(weighting='even')", 'weighting is "cost" or "uniform"', id="weighting"),
        pytest.param("__import__('os')", "expected a penalty such as", id="call"),
        pytest.param("log(temperature=x)", "expected a penalty such as", id="no-literal"),
        pytest.param("log(", "expected a penalty such as", id="syntax"),
    ],
)
def test_what_is_no_penalty_is_refused_by_name(text, message):
    with pytest.raises(PlanError, match=message.replace("(", r"\(")):
        parse_penalty(text)
    with pytest.raises(PlanError, match=message.replace("(", r"\(")):
        GradAuto(loss=text)


def test_offset_and_weighting_of_the_penalty_go_before_the_attacks():
    target = frozen(LinearGates(torch.eye(2), torch.tensor([-0.5, -0.25]), (1, 1, 2)))
    plain = MarginLoss.over(target.units, "cost", "logit", 0.1, torch.device("cpu"))
    own = MarginLoss.over(
        target.units,
        "cost",
        "logit",
        0.1,
        torch.device("cpu"),
        penalty=Log(offset=0.2, weighting="uniform"),
    )
    assert plain.offset.tolist() == pytest.approx([0.1, 0.1])
    assert own.offset.tolist() == pytest.approx([0.2, 0.2])
    assert own.weight.tolist() == [1.0, 1.0]


ATTACKS = {
    "gradauto": GradAuto,
    "apgd-margin": APGDMargin,
    "ilfo": ILFO,
    "deepsloth": DeepSloth,
    "gradmdm": GradMDM,
    "accuracy": Accuracy,
}


@pytest.mark.parametrize("name", ATTACKS)
def test_every_gradient_attack_takes_a_penalty(name):
    kind = ATTACKS[name]
    assert kind(loss="log(temperature=0.01)").loss == "log(temperature=0.01)"
    with pytest.raises(PlanError, match="no penalty"):
        kind(loss="nothing")
    assert "loss" in {field.name for field in dataclasses.fields(kind)}


@pytest.mark.parametrize("name", ["gradauto", "apgd-margin", "deepsloth"])
def test_the_penalty_decides_which_gate_is_opened(name):
    """Two gates pull one pixel in opposite directions; the ball reaches one of them only.

    The hinge follows the steeper gate, which cannot be reached; a concave penalty opens the near
    one.
    """
    weight = torch.tensor([[1.0, 0.0], [-8.0, 0.0]])
    target = frozen(LinearGates(weight, torch.tensor([-0.53, 0.0]), (1, 1, 2)))
    images = torch.full((1, 1, 1, 2), 128 / 255)
    opened = {}
    for loss in ("hinge", "power(exponent=-1, temperature=0.001, offset=0.005)"):
        view, job = begin(target, images, 60, Threat("linf", Fraction(12, 255)))
        found = ATTACKS[name](loss=loss).perturb(
            view, images, torch.zeros(1, dtype=torch.int64), job
        )
        opened[loss.partition("(")[0]] = target(found).decisions[0].tolist()
    assert opened == {"hinge": [False, False], "power": [True, False]}


def test_a_default_loss_leaves_keys_as_they_were(tmp_path):
    head = (
        'schema = 1\n[protocol]\ndataset = "digits-m:test"\nimages = 4\nbudget = 10\n'
        'threat = { norm = "psnr", floor = 35 }\n'
        '[[target]]\nuse = "skipnet"\nweights = "skipnet-20-hrl@digits-m"\n'
    )
    unsaid, said = '[[attack]]\nuse = "gradauto"\n', 'params = { loss = "hinge" }\n'
    log, ilfo = 'params = { loss = "log" }\n', '[[attack]]\nuse = "ilfo"\n'
    identities = []
    for number, attack in enumerate((unsaid, unsaid + said, unsaid + log, ilfo)):
        plan = tmp_path / f"{number}.toml"
        plan.write_text(head + attack)
        identities.append(load_plan(plan).cells[0].attack.identity())
    assert "loss" not in identities[0]["params"]
    assert identities[0] == identities[1]
    assert identities[2]["params"]["loss"] == "log"
    assert identities[3]["params"]["loss"] == "hinge"
