from fractions import Fraction

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, Exits, begin, frozen, pictures

from attacks.patch import Patch, paste, quantised
from attacks.universal import Universal, fit_losses
from bench.api import Job, Threat
from bench.image import difference, inside, overshoot, settle, to_float, to_grid

PATCH6 = Threat("patch", Fraction(6))


def fitted(attacker, target, threat, budget=60, count=24):
    """What the attack learns on images of its own, and the view it used."""
    images = pictures(count, seed=99)
    view, job = begin(target, images, budget, threat)
    before = images.clone()
    found = attacker.fit(view, images, job)
    assert torch.equal(images, before)
    return found, view


def scored(attacker, target, threat, learnt):
    images = pictures(16)
    view, _ = begin(target, images, 10, threat)
    job = Job(threat, 10, tuple(f"i{i}" for i in range(16)), fitted=learnt)
    adversarial = attacker.perturb(view, images, torch.zeros(16, dtype=torch.int64), job)
    assert int(view.ledger.used.sum()) == 0
    saved = settle(adversarial, to_grid(images), threat)
    assert not bool(overshoot(adversarial, images, threat).any())
    assert bool(inside(difference(saved, to_grid(images)), threat).all())
    return images, adversarial


@pytest.mark.parametrize("threat", [PSNR35, LINF8, NONE], ids=str)
def test_one_perturbation_for_images_it_has_never_seen(threat):
    target, attacker = frozen(ConvGates()), Universal()
    learnt, view = fitted(attacker, target, threat)
    assert learnt["delta"].shape == (3, 16, 16)
    assert int(view.ledger.used.max()) <= 60
    images, adversarial = scored(attacker, target, threat, learnt)
    clean, won = (target.macs(target(x).decisions).double().mean() for x in (images, adversarial))
    noise = (images + learnt["delta"].flatten()[torch.randperm(768)].reshape(3, 16, 16)).clamp(0, 1)
    assert won > clean
    assert won > target.macs(target(noise).decisions).double().mean(), (
        "no better than its own values shuffled"
    )


def test_the_first_steps_are_those_of_a_slow_loop():
    target, images = frozen(ConvGates().double()), pictures(6, seed=99).double()
    weight = target.units.cost.double() / target.units.cost.sum()
    view, job = begin(target, images, 9, LINF8)
    found = Universal(batch=4, schedule="constant").fit(view, images, job)["delta"]
    delta = torch.zeros_like(images[:1])
    for part in [range(4), range(4, 6)] * 3:
        total = torch.zeros_like(delta)
        for i in part:
            x = (images[i : i + 1] + delta).clamp(0, 1).requires_grad_()
            loss = (torch.relu(0.03 - target(x).logit_margins) * weight).sum()
            if float(loss.detach()) > 0:
                total += torch.autograd.grad(loss, x)[0]
        delta = (delta - 0.2 * 8 / 255 * total.sign()).clamp(-8 / 255, 8 / 255)
    assert float((found - delta[0]).abs().max()) < 1e-5


def test_deepsloth_preset_stays_in_its_own_ball_and_needs_exits():
    attacker = Universal(**Universal.presets["deepsloth"])
    assert "exits" in attacker.supports(frozen(ConvGates()), LINF8).reason
    learnt, _ = fitted(attacker, frozen(Exits()), LINF8)
    assert 0 < float(learnt["delta"].abs().max()) <= 0.03125
    assert "patch" in Universal().supports(frozen(ConvGates()), PATCH6).reason


def test_the_patch_is_one_8_bit_square_in_the_corner():
    target, attacker = frozen(ConvGates()), Patch()
    learnt, view = fitted(attacker, target, PATCH6)
    patch = learnt["patch"]
    assert patch.shape == (3, 6, 6)
    assert torch.equal(patch, to_float(to_grid(patch)))
    assert int(view.ledger.used.max()) <= 60
    images, adversarial = scored(attacker, target, PATCH6, learnt)
    changed = (adversarial != images).any(0).any(0)
    assert not bool(changed[6:].any())
    assert not bool(changed[:, 6:].any())
    clean, won = (target.macs(target(x).decisions).double().mean() for x in (images, adversarial))
    grey = paste(images, torch.full((1, 3, 6, 6), 0.5), 0, 0)
    assert won > clean
    assert won > target.macs(target(grey).decisions).double().mean(), "no better than a grey square"


def test_the_patch_steps_are_those_of_adamw_on_the_quantised_patch():
    target, images = frozen(ConvGates().double()), pictures(4, seed=99).double()
    weight = target.units.cost.double() / target.units.cost.sum()
    view, job = begin(target, images, 9, PATCH6)
    found = Patch(batch=0).fit(view, images, job)["patch"]
    value = torch.full((1, 3, 6, 6), 0.5, requires_grad=True)
    adam = torch.optim.AdamW([value], lr=0.2)
    for _ in range(3):
        total = torch.zeros_like(value)
        for image in images.split(1):
            x = image.clone()
            x[:, :, :6, :6] = ((value.detach() * 255).round() / 255).double()
            x.requires_grad_()
            loss = (torch.relu(0.03 - target(x).logit_margins) * weight).sum()
            if float(loss.detach()) > 0:
                total += torch.autograd.grad(loss, x)[0][:, :, :6, :6].float() / 4
        value.grad = total
        adam.step()
        with torch.no_grad():
            value.clamp_(0, 1)
    assert float((found - quantised(value.detach())[0]).abs().max()) < 1.5 / 255


def test_a_patch_fits_no_ball():
    assert "no ball" in Patch().supports(frozen(ConvGates()), PSNR35).reason
    assert Patch().supports(frozen(ConvGates()), PATCH6) is None
    assert Patch().supports(frozen(ConvGates()), NONE) is None
    centre = Patch(place="centre", side=4).square(pictures(1), NONE)
    assert centre == (6, 6, 4, 4)


def test_unfitted_they_do_nothing():
    for attacker, threat in ((Universal(), PSNR35), (Patch(), PATCH6)):
        images, adversarial = scored(attacker, frozen(ConvGates()), threat, {})
        assert torch.equal(images, adversarial)


def test_the_losses_of_a_fit():
    target = frozen(Exits())
    view, _ = begin(target, pictures(2), 10)
    output = target(pictures(2))
    hinge, exits = (
        fit_losses(Universal(loss=name, offset=0.0), view)(output)[0] for name in ("hinge", "auto")
    )
    assert hinge.shape == exits.shape == (2,)
    assert not torch.equal(hinge, exits)
