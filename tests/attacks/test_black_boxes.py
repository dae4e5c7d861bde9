"""The genetic search and NES: one-image versions, and what both promise."""

from fractions import Fraction

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, LinearGates, begin, frozen, pictures

from attacks.best_saved import BestSaved
from attacks.box import reach
from attacks.genetic import Genetic, Population
from attacks.nes import NES
from bench.api import Threat, image_generator
from bench.errors import ContractBroken
from bench.image import difference, inside, project, settle, squared_sum, to_float, to_grid

PATCH6 = Threat("patch", Fraction(6))
ATTACKS = {"genetic": Genetic, "nes": NES}
FREE = pytest.mark.slow  # a box without a ball, which every ball is clamped to
PAIRS = [
    pytest.param(name, threat, marks=FREE if threat is NONE else (), id=f"{name}-{threat.norm}")
    for name in ATTACKS
    for threat in (PSNR35, LINF8, NONE, PATCH6)
    if not (name == "nes" and threat is PATCH6)
]


@pytest.mark.parametrize(("name", "threat"), PAIRS)
def test_never_cheaper_on_the_grid_inside_and_blind(name, threat):
    target, images = frozen(ConvGates()), pictures(8)
    labels = torch.zeros(8, dtype=torch.int64)
    view, job = begin(target, images, 60, threat, "macs")
    adversarial = ATTACKS[name]().perturb(view, images, labels, job)
    saved = to_grid(adversarial)
    assert float((to_float(saved) - adversarial).abs().max()) < 1e-6
    assert bool(inside(difference(saved, to_grid(images)), threat).all())
    clean, won = (target.macs(target(x).decisions) for x in (images, adversarial))
    assert bool((won >= clean).all()) or threat is PATCH6
    assert int(won.sum()) > int(clean.sum())
    assert int(view.ledger.backwards.sum()) == 0
    assert int(view.ledger.used.max()) <= 60
    with pytest.raises(ContractBroken):
        view(images, torch.arange(8))
    again, job = begin(target, images, 60, threat, "macs")
    assert torch.equal(ATTACKS[name]().perturb(again, images, labels, job), adversarial)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_image_does_not_depend_on_the_others(name):
    target, images = frozen(ConvGates()), pictures(6)
    labels = torch.zeros(6, dtype=torch.int64)
    view, job = begin(target, images, 40, PSNR35, "macs")
    together = ATTACKS[name]().perturb(view, images, labels, job)
    view, job = begin(target, images[:3], 40, PSNR35, "macs")
    alone = ATTACKS[name]().perturb(view, images[:3], labels[:3], job)
    assert torch.equal(together[:3], alone)


@pytest.mark.parametrize("name", ATTACKS)
def test_where_everything_runs_nothing_is_changed(name):
    target, images = frozen(ConvGates(units=0)), pictures(2)
    view, job = begin(target, images, 20, PSNR35, "macs")
    adversarial = ATTACKS[name]().perturb(view, images, torch.zeros(2, dtype=torch.int64), job)
    assert int(squared_sum(difference(to_grid(adversarial), to_grid(images))).sum()) == 0
    assert int(view.ledger.used.max()) <= 12


def test_a_child_has_a_rectangle_of_one_parent_in_the_other():
    target, images = frozen(ConvGates()), pictures(2)
    view, _ = begin(target, images, 20, PSNR35, "macs")
    herd = Population(view, images, PSNR35, 4)
    herd.pattern = torch.arange(4.0)[None, :, None, None, None].expand(2, 4, *images.shape[1:])
    herd.macs = torch.tensor([[3, 9, 5, 1], [7, 7, 2, 8]])
    chance = torch.tensor([[0.0, 0.99, 0.25, 0.75, 0.5, 1.0], [0.6, 0.0, 0.0, 0.5, 0.0, 0.25]])
    child = herd.crossed(torch.arange(2), chance, pressure=2.0)
    height, width = images.shape[-2:]
    for row in range(2):
        order = sorted(range(4), key=lambda place: (-int(herd.macs[row, place]), place))
        one, other = (order[int(4 * float(chance[row, i]) ** 2)] for i in (0, 1))
        draw = chance[row, 2:].tolist()
        for y in range(height):
            for x in range(width):
                low_y, high_y = sorted(draw[:2])
                low_x, high_x = sorted(draw[2:])
                within = low_y <= y / height < high_y and low_x <= x / width < high_x
                assert child[row, 0, y, x] == (one if within else other)


def herd_of_two():
    """A population of two for each of two images of one pixel, and their rows: the pixel as it is,
    which opens nothing, and 8 levels brighter, which opens the gate."""
    target = frozen(LinearGates(torch.tensor([[1.0]]), torch.tensor([-0.5]), (1, 1, 1)))
    images = torch.full((2, 1, 1, 1), 127 / 255)
    view, _ = begin(target, images, 20, LINF8, "macs")
    herd = Population(view, images, LINF8, 2)
    rows = torch.arange(2)
    herd.enter(torch.zeros(2, 1, 1, 1), rows, torch.zeros(2, dtype=torch.int64))
    herd.enter(torch.ones(2, 1, 1, 1), rows, torch.ones(2, dtype=torch.int64))
    return herd, rows


def test_a_child_replaces_the_worst_unless_it_executes_less():
    herd, rows = herd_of_two()
    assert herd.macs.tolist() == [[10, 110]] * 2
    assert herd.worst(rows).tolist() == [0, 0]
    herd.enter(-torch.ones(2, 1, 1, 1), rows, torch.ones(2, dtype=torch.int64))
    assert herd.macs.tolist() == [[10, 110]] * 2
    assert herd.best.macs.tolist() == [110, 110]


def test_of_a_random_target_the_fittest_now_counts_not_the_luckiest_ever():
    herd, _ = herd_of_two()
    herd.macs[1] = torch.tensor([120, 110])  # as if the second image had drawn otherwise
    assert (255 * herd.fittest().flatten()).round().tolist() == [135, 127]


def test_nes_step_by_step():
    """One image, written again: pairs, estimate, momentum, step, projection."""
    target, images = frozen(ConvGates()), pictures(1)
    attacker = NES(pairs=2, steps=4, tile=4)
    view, job = begin(target, images, 100, PSNR35, "macs")
    adversarial = attacker.perturb(view, images, torch.zeros(1, dtype=torch.int64), job)
    clean, values = images[0], images[0].numel()
    far = reach(PSNR35, values, 30.0)
    draw = image_generator(0, "image0")
    candidates = []

    def macs(x):
        start = images
        saved = settle(project(x[None], start, PSNR35), to_grid(start), PSNR35)
        value = int(target.macs(target(to_float(saved)).decisions))
        candidates.append((value, int(squared_sum(difference(saved, to_grid(start)))), saved))
        return value

    x, kept = clean.clone(), torch.zeros_like(clean)
    macs(x)
    for _ in range(4):
        gradient = torch.zeros_like(x)
        for _ in range(2):
            noise = torch.randn(3, 4, 4, generator=draw)
            noise = noise.repeat_interleave(4, 1).repeat_interleave(4, 2)
            gradient += (macs(x + 0.5 * far * noise) - macs(x - 0.5 * far * noise)) * noise
        kept = 0.75 * kept + 0.25 * gradient / max(float(gradient.norm()), 1e-30)
        step = kept / max(float(kept.norm()), 1e-30)
        x = project((x + 0.3 * far * values**0.5 * step)[None], images, PSNR35)[0]
    best = max(candidates, key=lambda one: (one[0], -one[1]))
    assert torch.equal(to_grid(adversarial), best[2])
    assert int(view.ledger.used) == len(candidates) == 17


def test_the_nearest_of_the_most_expensive_is_kept():
    clean = torch.full((2, 1, 1, 2), 100 / 255)
    best = BestSaved(clean)
    rows = torch.arange(2)
    far, near = (torch.full((2, 1, 1, 2), level, dtype=torch.uint8) for level in (110, 101))
    best.offer(rows, far, torch.tensor([5, 5]))
    best.offer(rows, near, torch.tensor([5, 4]))
    assert to_grid(best.image)[:, 0, 0, 0].tolist() == [101, 110]
    assert best.macs.tolist() == [5, 5]
