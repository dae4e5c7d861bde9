"""Every shipped attack, every preset, against the contract that plugin authors are held to."""

import itertools

import numpy as np
import pytest
import torch
from gated_toys import NONE, PSNR35, ConvGates, Exits, Halting, begin, frozen, pictures

from attacks.apgd import APGDMargin
from attacks.autoenergy import AutoEnergySplit
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
from attacks.square import Square
from attacks.universal import Universal
from bench.results import stats
from bench.testing import ToyTarget, check_attack, problems

PUSHING = [GradAuto, ILFO, GradMDM, DeepSloth, APGDMargin, Pry, Onward]
SHIPPED = [
    *PUSHING,
    Square,
    Genetic,
    NES,
    Universal,
    Patch,
    DeSparsify,
    AutoEnergySplit,
    Identity,
    Noise,
    Contrast,
    Photometric,
]
FORMS = [(attack, preset) for attack in SHIPPED for preset in ("", *attack.presets)]


PRESET = pytest.mark.slow  # the contract of the same attack with other numbers


@pytest.mark.parametrize(
    ("attack", "preset"),
    [
        pytest.param(a, p, marks=PRESET if p else (), id=f"{a.__name__}:{p}" if p else a.__name__)
        for a, p in FORMS
    ],
)
def test_keeps_the_contract(attack, preset):
    needing = (
        {"ponder": Halting, "linf": Exits, "l2": Exits, "deepsloth": Exits}
        if attack in (ILFO, DeepSloth, Universal)
        else {}
    )
    target = frozen(needing[preset]()) if preset in needing else None
    assert not problems(check_attack(attack(**attack.presets.get(preset, {})), target))


@pytest.mark.parametrize("attack", SHIPPED)
@pytest.mark.parametrize("budget", [0, 1, 4, 5, 6])
def test_a_tiny_budget_is_no_error(attack, budget):
    target, images = frozen(ConvGates()), pictures(3)
    view, job = begin(target, images, budget, PSNR35, attack.access)
    adversarial = attack().perturb(view, images, torch.zeros(3, dtype=torch.int64), job)
    assert adversarial.shape == images.shape
    assert bool(adversarial.isfinite().all())
    assert bool((view.left >= 0).all())


@pytest.mark.parametrize("attack", PUSHING)
def test_rows_of_equal_images_get_equal_answers(attack):
    """No row depends on its company: three copies of an image end up alike."""
    target, images = frozen(ConvGates()), pictures(2)[[0, 0, 1, 0]]
    view, job = begin(target, images, 40, PSNR35)
    adversarial = attack().perturb(view, images, torch.zeros(4, dtype=torch.int64), job)
    assert float((adversarial[0] - adversarial[1]).abs().max()) < 1.5 / 255
    assert float((adversarial[0] - adversarial[3]).abs().max()) < 1.5 / 255
    assert float((adversarial[0] - adversarial[2]).abs().max()) > 0.05


def test_progress_never_goes_back():
    for attack, threat in itertools.product(
        (GradAuto(), GradAuto(steps=7), ILFO()), (PSNR35, NONE)
    ):
        target, images = frozen(ConvGates()), pictures(2)
        view, job = begin(target, images, 60, threat)
        seen = []
        object.__setattr__(
            job, "progress", lambda done, total, seen=seen: seen.append(done / total)
        )
        attack.perturb(view, images, torch.zeros(2, dtype=torch.int64), job)
        assert seen
        assert all(0 <= share <= 1 for share in seen)
        assert seen == sorted(seen)


def test_recovery_identities():
    """Golden 5: everything on is 100 %, unchanged 0, cheaper negative, and nothing is clipped."""
    target = ToyTarget()
    off, on = target.extremes()
    some = torch.tensor([[True, False, True]])
    clean = int(target.macs(some))
    weights = stats.resamples(4, 50)
    for decisions, expected in ((on, 1.0), (some, 0.0), (off, -2.0)):
        gained = np.full(4, int(target.macs(decisions)) - clean)
        reserve = np.full(4, target.ceiling - clean)
        assert stats.ratio_estimate(gained, reserve, weights).value == pytest.approx(expected)
