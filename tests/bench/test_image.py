"""No saved image is ever outside its threat; what is inside already is only rounded."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import image
from bench.contracts.threat import Threat

THREATS = st.one_of(
    st.builds(lambda n: Threat("linf", Fraction(n, 2550)), st.integers(1, 400)),
    st.builds(lambda n: Threat("l2", Fraction(n, 255)), st.integers(1, 900)),
    st.builds(lambda n: Threat("psnr", Fraction(n, 2)), st.integers(1, 130)),
    st.builds(lambda n: Threat("patch", Fraction(n)), st.integers(1, 12)),
    st.just(Threat("none", Fraction(0))),
)
SHAPES = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(1, 9))
ROWS = st.sampled_from(
    ["noise", "bright", "dark", "saturated", "wild", "tiny", "half", "brim", "one pixel"]
)


def pictures(shape, kind, seed, threat):
    """A clean uint8 batch and a float batch that an attack might return for it."""
    draw = np.random.default_rng(seed)
    clean = torch.from_numpy(
        draw.choice([0, 255], shape) if kind == "saturated" else draw.integers(0, 256, shape)
    ).to(torch.uint8)
    start = clean.to(torch.float64) / 255
    noise = torch.from_numpy(draw.standard_normal(shape))
    bound = threat.bound(clean[0].numel()) or 100
    if kind == "bright":
        found = start + 0.3
    elif kind == "dark":
        found = start - 0.3
    elif kind == "wild":
        found = noise * 100
    elif kind == "tiny":
        found = start + noise * 1e-4
    elif (
        kind == "half"
    ):  # every value exactly between two levels: where rounding pushes outwards most
        found = (clean.to(torch.float64) + 0.5 * noise.sign()) / 255
    elif kind == "brim":  # on the surface of the ball, in real numbers
        size = bound / 255 if threat.norm == "linf" else bound**0.5 / 255
        unit = (
            noise.sign()
            if threat.norm == "linf"
            else noise / noise.flatten(1).norm(dim=1)[:, None, None, None].clamp(min=1e-9)
        )
        found = start + size * unit
    elif kind == "one pixel":
        found = start.clone()
        found[:, :, 0, 0] = 1 - found[:, :, 0, 0]
    else:
        found = start + noise * 0.1
    return clean, found.to(torch.float32)


def slow_inside(saved, clean, threat):
    """The definition, restated in plain Python over plain integers."""
    result = []
    for one, other in zip(saved.tolist(), clean.tolist(), strict=True):
        flat = [
            (y, x, a - b)
            for p, q in zip(one, other, strict=True)
            for y, (r, s) in enumerate(zip(p, q, strict=True))
            for x, (a, b) in enumerate(zip(r, s, strict=True))
        ]
        n = len(flat)
        if threat.norm == "none":
            result.append(True)
        elif threat.norm == "linf":
            result.append(all(abs(d) <= 255 * threat.amount for _, _, d in flat))
        elif threat.norm == "l2":
            result.append(sum(d * d for _, _, d in flat) <= (255 * threat.amount) ** 2)
        elif (
            threat.norm == "psnr"
        ):  # s <= n 255^2 10^(-f/10) with f = p/2, raised to the twentieth power
            total, half = sum(d * d for _, _, d in flat), int(2 * threat.amount)
            result.append(total**20 * 10**half <= (n * 255**2) ** 20)
        else:
            ys, xs = [y for y, _, d in flat if d], [x for _, x, d in flat if d]
            side = int(threat.amount)
            result.append(not ys or (max(ys) - min(ys) < side and max(xs) - min(xs) < side))
    return result


@settings(max_examples=150)
@given(SHAPES, ROWS, st.integers(0, 2**32), THREATS)
def test_settle_is_always_inside_and_only_rounds_what_is(shape, kind, seed, threat):
    clean, found = pictures(shape, kind, seed, threat)
    saved = image.settle(found, clean, threat)
    assert saved.dtype == torch.uint8
    assert saved.shape == clean.shape
    assert slow_inside(saved, clean, threat) == [True] * len(clean)
    assert image.inside(image.difference(saved, clean), threat).all()
    assert torch.equal(saved, image.settle(found, clean, threat)), (
        "the same image settles the same way"
    )
    assert torch.equal(saved, image.settle(image.to_float(saved), clean, threat)), (
        "a settled image stays as it is"
    )
    alone = torch.cat(
        [image.settle(found[i : i + 1], clean[i : i + 1], threat) for i in range(len(found))]
    )
    assert torch.equal(saved, alone), "an image settles the same in any company"
    plain = image.to_grid(found.double())
    untouched = ~image.overshoot(found, image.to_float(clean), threat) & image.inside(
        image.difference(plain, clean), threat
    )
    strictly = untouched & torch.isclose(
        image.project(found, image.to_float(clean), threat), found.clamp(0, 1)
    ).flatten(1).all(1)
    for i in strictly.nonzero().flatten().tolist():
        assert int((saved[i].int() - plain[i].int()).abs().max()) <= int(
            kind in ("half", "brim")
        ), "inside is plain rounding"


@settings(max_examples=80)
@given(SHAPES, st.integers(0, 2**32), THREATS, st.floats(0, 0.5))
def test_what_lies_well_inside_is_plainly_rounded(shape, seed, threat, share):
    clean, found = pictures(shape, "noise", seed, threat)
    start = image.to_float(clean)
    near = start + (image.project(found, start, threat) - start) * share
    plain = image.to_grid(near.double())
    inside = torch.tensor(slow_inside(plain, clean, threat))
    saved = image.settle(near, clean, threat)
    assert torch.equal(saved[inside], plain[inside])


@settings(max_examples=80)
@given(SHAPES, ROWS, st.integers(0, 2**32), THREATS)
def test_projection_is_idempotent_in_range_and_inside(shape, kind, seed, threat):
    clean, found = pictures(shape, kind, seed, threat)
    start = image.to_float(clean)
    once = image.project(found, start, threat)
    assert torch.allclose(image.project(once, start, threat), once, rtol=0, atol=2e-7)
    assert float(once.min()) >= 0
    assert float(once.max()) <= 1
    assert not image.overshoot(once, start, threat).any()
    assert torch.equal(image.project(start, start, threat), start), "the clean image stays as it is"


@settings(max_examples=80)
@given(SHAPES, ROWS, st.integers(0, 2**32), THREATS)
def test_inside_is_the_definition(shape, kind, seed, threat):
    clean, found = pictures(shape, kind, seed, threat)
    saved = image.to_grid(found)
    assert image.inside(image.difference(saved, clean), threat).tolist() == slow_inside(
        saved, clean, threat
    )


@pytest.mark.parametrize(
    ("threat", "d"),
    [
        pytest.param(Threat("linf", Fraction(8, 255)), [8, -8, 8], id="linf"),
        pytest.param(Threat("l2", Fraction(5, 255)), [3, 4, 0], id="l2"),
        pytest.param(
            Threat("psnr", Fraction(40)), [4, 1, 1], id="psnr"
        ),  # 3 values: bound floor(19.5) = 19
    ],
)
def test_the_bound_itself_is_inside_and_one_level_more_is_not(threat, d):
    d = torch.tensor(d).reshape(1, 3, 1, 1)
    assert image.inside(d, threat).all()
    more = d.clone()
    more[0, 0] += 1
    assert not image.inside(more, threat).any()
    clean = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    kept = image.settle((100 + d) / 255.0, clean, threat)
    assert torch.equal(kept.int() - 100, d.int()), "exactly on the bound, nothing is moved"
    moved = image.settle((100 + more) / 255.0, clean, threat)
    assert image.inside(image.difference(moved, clean), threat).all()


def test_stepping_back_moves_what_rounding_pushed_outwards_most():
    """D = (1.6, 1.4, 2.0) rounds to (2, 1, 2): sum 9 over a bound of 7 after (2, 1, 2) -> (1, 1, 2)
    = 6."""
    clean = torch.full((1, 3, 1, 1), 100, dtype=torch.uint8)
    wanted = torch.tensor([1.6, 1.4, 2.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    total = float(wanted.square().sum())
    assert total < 8.6
    threat = Threat("l2", Fraction(293, 25500))  # (2.93)^2 = 8.58 -> 8
    assert threat.bound(3) == 8
    saved = image.settle((100 + wanted * (8**0.5 - 1e-9) / total**0.5) / 255, clean, threat)
    assert (saved.int() - 100).flatten().tolist() == [1, 1, 2]


def test_grid_psnr_and_ssim_against_oracles():
    # Imported here, since it brings scipy along: one of the test processes needs it.
    from torchmetrics.functional.image import (
        peak_signal_noise_ratio,
        structural_similarity_index_measure,
    )

    draw = np.random.default_rng(0)
    clean = torch.from_numpy(draw.integers(0, 256, (4, 3, 32, 32))).to(torch.uint8)
    assert torch.equal(image.to_grid(image.to_float(clean)), clean)
    saved = image.to_grid(
        image.to_float(clean) + torch.from_numpy(draw.normal(0, 0.03, (4, 3, 32, 32))).float()
    )
    saved[0] = clean[0]
    total = image.squared_sum(image.difference(saved, clean))
    assert total.dtype == torch.int64
    mine = image.psnr(total, 3072)
    assert float(mine[0]) == image.PSNR_CAP
    for i in range(1, 4):
        oracle = peak_signal_noise_ratio(saved[i].double(), clean[i].double(), data_range=255.0)
        assert float(mine[i]) == pytest.approx(
            float(oracle), rel=1e-6
        )  # its data range is a float32
    similarity = image.ssim(saved, clean)
    assert float(similarity[0]) == 1
    assert (similarity[1:] < 1).all()
    oracle = structural_similarity_index_measure(
        saved.double() / 255, clean.double() / 255, data_range=1.0, reduction="none"
    )
    assert torch.allclose(similarity, oracle, rtol=0, atol=1e-9)
    alone = torch.cat([image.ssim(saved[i : i + 1], clean[i : i + 1]) for i in range(4)])
    assert torch.allclose(similarity, alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 5, 6, 8, 10, 11, 12, 32])
def test_ssim_is_a_number_at_every_size(size):
    draw = torch.Generator().manual_seed(size)
    clean = torch.randint(0, 256, (2, 3, size, size), generator=draw).to(torch.uint8)
    saved = (clean.int() ^ 1).to(torch.uint8)
    value = image.ssim(saved, clean)
    assert torch.isfinite(value).all()
    assert ((value > 0) & (value < 1)).all()
    assert image.ssim(clean, clean).tolist() == pytest.approx([1, 1], abs=1e-9)


def test_sums_do_not_overflow():
    d = torch.full((1, 3, 300, 300), -255, dtype=torch.int64)
    assert int(image.squared_sum(d)) == 3 * 300 * 300 * 65025
