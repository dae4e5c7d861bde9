from fractions import Fraction

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, LinearGates, begin, frozen, pictures
from hypothesis import given, settings
from hypothesis import strategies as st

from attacks.controls import Contrast, Identity, Noise, Photometric, gaussian_blur
from bench.api import Threat
from bench.image import difference, inside, psnr, settle, squared_sum, to_float, to_grid
from bench.plugins.declarations import read_class

TARGET = frozen(ConvGates())


def apply(attacker, images, threat, budget=100, target=TARGET):
    view, job = begin(target, images, budget, threat, attacker.access)
    return attacker.perturb(view, images, torch.zeros(len(images), dtype=torch.int64), job), view


def test_identity_is_the_identity():
    images = pictures(3)
    adversarial, view = apply(Identity(), images, PSNR35)
    assert torch.equal(adversarial, images)
    assert adversarial is not images
    assert int(view.ledger.used.sum()) == 0


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["gaussian", "uniform", "sign"]),
    st.one_of(
        st.integers(20, 55).map(lambda floor: Threat("psnr", Fraction(floor))),
        st.integers(1, 40).map(lambda part: Threat("l2", Fraction(part, 10))),
    ),
    st.integers(0, 1000),
)
def test_noise_fills_a_sphere_exactly(distribution, threat, seed):
    images = pictures(2, seed=seed)
    adversarial, view = apply(Noise(distribution=distribution), images, threat)
    d = difference(to_grid(adversarial), to_grid(images))
    bound = threat.bound(images[0].numel())
    assert bound is not None
    smallest = 2 * d.abs().flatten(1).amin(1) + 1  # what the cheapest further level would add
    assert bool((squared_sum(d) <= bound).all())
    assert bool((bound - squared_sum(d) < smallest).all())
    if distribution == "gaussian":
        assert squared_sum(d).tolist() == [bound] * 2
    assert torch.equal(
        settle(adversarial, to_grid(images), threat), to_grid(adversarial)
    )  # the judge has nothing to pull back
    assert int(view.ledger.used.sum()) == 0


def test_noise_on_black_and_white_stays_in_range_and_near_the_brim():
    images = torch.cat([torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)])
    d = difference(to_grid(apply(Noise(), images, PSNR35)[0]), to_grid(images))
    bound = PSNR35.bound(images[0].numel())
    assert bound is not None
    assert bool((squared_sum(d) <= bound).all())
    assert bool((squared_sum(d) > 0.99 * bound).all())


def test_noise_under_linf_moves_every_value_by_the_bound():
    images = pictures(4)
    images[0] = 0.0
    images[1] = 1.0
    d = difference(to_grid(apply(Noise(), images, LINF8)[0]), to_grid(images))
    assert bool((d.abs() == 8).all())
    assert 0.4 < float((d[2:] > 0).double().mean()) < 0.6


def test_noise_under_a_patch_fills_one_square():
    images = pictures(4)
    threat = Threat("patch", Fraction(5))
    adversarial, _ = apply(Noise(), images, threat)
    d = difference(to_grid(adversarial), to_grid(images))
    assert bool(inside(d, threat).all())
    touched = (d != 0).any(1)
    assert bool((touched.flatten(1).sum(1) > 20).all())
    corners = {tuple(place.nonzero()[0].tolist()) for place in touched}
    assert len(corners) > 1


@pytest.mark.parametrize("name", sorted(Noise.presets))
def test_noise_without_a_threat_has_the_psnr_asked_for(name):
    images = pictures(2)
    attacker = Noise(**Noise.presets[name])
    total = squared_sum(difference(to_grid(apply(attacker, images, NONE)[0]), to_grid(images)))
    assert psnr(total, images[0].numel()).tolist() == pytest.approx([attacker.psnr] * 2, abs=0.05)


def test_noise_depends_on_the_image_id_alone():
    images = pictures(3)
    together, _ = apply(Noise(), images, PSNR35)
    again, _ = apply(Noise(), images, PSNR35)
    first, _ = apply(Noise(), images[:1], PSNR35)
    assert torch.equal(together, again)
    assert torch.equal(together[:1], first)
    same = images[:1].expand(3, -1, -1, -1).clone()
    assert not torch.equal(*[(a - same[0]) for a in apply(Noise(), same, PSNR35)[0][:2]])


@pytest.mark.parametrize("map_name", ["gradauto", "ilfo"])
def test_contrast_is_the_map_at_rest(map_name):
    images = pictures(4)
    stretched, view = apply(Contrast(map=map_name), images, NONE)
    spread = [
        (x.flatten(1) - x.flatten(1).mean(1, keepdim=True)).square().mean(1)
        for x in (images, stretched)
    ]
    assert bool((spread[1] > 1.3 * spread[0]).all())
    decibel = psnr(squared_sum(difference(to_grid(stretched), to_grid(images))), images[0].numel())
    assert bool(((decibel > 14) & (decibel < 26)).all())
    bounded, _ = apply(Contrast(map=map_name), images, PSNR35)
    assert bool(
        inside(difference(settle(bounded, to_grid(images), PSNR35), to_grid(images)), PSNR35).all()
    )
    moved = (bounded - images).flatten(1), (stretched.clamp(0, 1) - images).flatten(1)
    assert (
        torch.nn.functional.cosine_similarity(*moved).min() > 0.999
    )  # the same stretch, less of it
    assert int(view.ledger.used.sum()) == 0


def test_photometric_keeps_the_dearest_setting_by_its_own_counting():
    images = pictures(8)
    attacker = Photometric()
    assert attacker.access == "macs"
    adversarial, view = apply(attacker, images, LINF8)
    tried = [
        to_float(settle(changed, to_grid(images), LINF8)) for changed in attacker.settings(images)
    ]
    assert view.ledger.used.tolist() == [len(tried)] * 8
    most = torch.stack([TARGET.macs(TARGET(saved).decisions) for saved in tried]).amax(0)
    assert torch.equal(TARGET.macs(TARGET(adversarial).decisions), most)
    assert bool(inside(difference(to_grid(adversarial), to_grid(images)), LINF8).all())


def test_photometric_prefers_the_nearest_of_equals_and_obeys_its_budget():
    images = pictures(4)
    closed = frozen(LinearGates(torch.zeros(1, 768), torch.tensor([-1.0]), (3, 16, 16)))
    adversarial, view = apply(Photometric(), images, NONE, budget=5, target=closed)
    assert torch.equal(adversarial, images)
    assert view.ledger.used.tolist() == [5] * 4


def test_photometric_can_open_what_brightness_opens():
    images = pictures(4)
    bright = frozen(
        LinearGates(
            torch.full((1, 768), 1.0),
            -768 * (images.mean((1, 2, 3)).max() + 0.05).reshape(1),
            (3, 16, 16),
        )
    )
    assert not bool(bright(images).decisions.any())
    adversarial, _ = apply(Photometric(), images, NONE, target=bright)
    assert bool(bright(adversarial).decisions[images.mean((1, 2, 3)).argmax()])


def test_blur_keeps_flat_images_and_total_light():
    flat = torch.full((1, 3, 9, 9), 0.4)
    assert torch.allclose(gaussian_blur(flat, 1.0), flat, atol=1e-6)
    spot = torch.zeros(1, 1, 15, 15)
    spot[0, 0, 7, 7] = 1
    blurred = gaussian_blur(spot, 1.0)
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(blurred[0, 0, 7, 7]) == pytest.approx(1 / (2 * torch.pi), rel=0.05)


def test_controls_are_marked_as_such_in_the_source():
    def unreadable():
        raise AssertionError("the source does not tell; a plan would import torch")

    for name in ("Identity", "Noise", "Contrast", "Photometric"):
        facts = read_class("attacks.controls", name, unreadable)
        assert facts.constants["control"] is True
        for preset in facts.presets.values():
            assert set(preset) <= set(facts.parameters)
