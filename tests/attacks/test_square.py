from fractions import Fraction

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, begin, frozen, pictures

from attacks.square import SHRINKS, Square, edge, recolored, window
from bench.api import Threat
from bench.errors import ContractBroken
from bench.image import difference, inside, squared_sum, to_float, to_grid

PATCH6 = Threat("patch", Fraction(6))


def slow_recolored(delta, drawn, side):
    """One pattern with one square in new colours, pixel by pixel."""
    out = delta.clone()
    channels, height, width = delta.shape
    top, left = int(drawn[0] * (height - side + 1)), int(drawn[1] * (width - side + 1))
    for c in range(channels):
        for y in range(top, top + side):
            for x in range(left, left + side):
                out[c, y, x] = -1.0 if float(drawn[2 + c]) < 0.5 else 1.0
    return out


@pytest.mark.parametrize("side", [1, 3, 8])
def test_a_proposal_is_one_square_in_new_colours(side):
    draw = torch.Generator().manual_seed(side)
    delta, drawn = torch.randn(5, 3, 8, 8, generator=draw), torch.rand(5, 5, generator=draw)
    found = recolored(delta, drawn, side, LINF8)
    for row in range(5):
        assert torch.equal(found[row], slow_recolored(delta[row], drawn[row], side))


def test_squares_shrink_on_the_published_schedule():
    attacker = Square()
    assert attacker.area(0) == 0.8
    assert attacker.area(0.0015) == 0.4
    assert attacker.area(0.9) == 0.8 / 2 ** len(SHRINKS)


def test_patterns_reach_the_edge_of_the_ball():
    delta = torch.randn(2, 3, 8, 8)
    assert (
        float(
            (delta * edge(delta, PSNR35))
            .flatten(1)
            .norm(dim=1)
            .sub(PSNR35.bound(192) ** 0.5 / 255)
            .abs()
            .max()
        )
        < 1e-5
    )
    assert float(edge(delta, LINF8).max()) == pytest.approx(8 / 255)


FREE = pytest.mark.slow  # a box without a ball, which every ball is clamped to
THREATS = (PSNR35, LINF8, NONE, PATCH6)


@pytest.mark.parametrize(
    "threat",
    [pytest.param(each, marks=FREE if each is NONE else (), id=str(each)) for each in THREATS],
)
def test_never_cheaper_on_the_grid_inside_and_blind(threat):
    target, images = frozen(ConvGates()), pictures(12)
    view, job = begin(target, images, 80, threat, "macs")
    adversarial = Square().perturb(view, images, torch.zeros(12, dtype=torch.int64), job)
    saved = to_grid(adversarial)
    assert float((to_float(saved) - adversarial).abs().max()) < 1e-6
    assert bool(inside(difference(saved, to_grid(images)), threat).all())
    clean, won = (target.macs(target(x).decisions) for x in (images, adversarial))
    assert bool((won >= clean).all())
    assert bool((won > clean).any())
    assert int(view.ledger.backwards.sum()) == 0
    with pytest.raises(ContractBroken):
        view(images, torch.arange(12))
    again, job = begin(target, images, 80, threat, "macs")
    assert torch.equal(
        Square().perturb(again, images, torch.zeros(12, dtype=torch.int64), job), adversarial
    )


def test_equally_dear_and_nearer_is_kept():
    """Everything runs already: the clean image itself is the nearest of the dearest."""
    target, images = frozen(ConvGates(units=0)), pictures(2)
    view, job = begin(target, images, 20, PSNR35, "macs")
    adversarial = Square().perturb(view, images, torch.zeros(2, dtype=torch.int64), job)
    assert int(squared_sum(difference(to_grid(adversarial), to_grid(images))).sum()) == 0
    assert int(view.ledger.used.max()) <= 2


def test_a_patch_stays_where_it_began():
    free = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    free[:, :, 2:6, 3:7] = True
    for place in (0.0, 0.5, 0.999):
        where = window(torch.tensor([[place, place]]), 2, free, 8, 8)
        assert int((where & free).sum()) == int(where.sum()) == 4
