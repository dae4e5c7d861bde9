from math import ceil

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, begin, frozen, pictures

from attacks.apgd import APGDMargin, checkpoints
from attacks.box import reach
from bench.image import difference, project, psnr, squared_sum, to_grid


def test_checkpoints_by_hand():
    assert checkpoints(100) == {22, 41, 57, 70, 80, 87, 93, 99}
    assert checkpoints(10) == {
        ceil(10 * p) for p in (0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99)
    }


def published(target, image, threat, norm, steps, offset):
    """The rule of steps, one image, written again from the paper's algorithm 1.

    Returns every point it stands at.
    """
    far = reach(threat, image[0].numel(), 30.0)
    weight = target.units.cost.double() / target.units.cost.sum()
    marks = sorted(checkpoints(steps))

    def evaluate(x):
        inputs = x.clone().requires_grad_()
        loss = (torch.relu(offset - target(inputs).logit_margins) * weight).sum()
        grad = (
            torch.autograd.grad(loss, inputs)[0]
            if float(loss.detach()) > 0
            else torch.zeros_like(x)
        )
        return float(loss.detach()), grad

    def unit(grad):
        return (
            grad.sign()
            if norm == "linf"
            else grad * (grad.numel() ** 0.5 / max(float(grad.norm()), 1e-30))
        )

    x, before, eta = image, image, 2 * far
    best_x, best_f, best_g = None, float("inf"), None
    previous, paid, since, then = float("inf"), 0, 0, (float("inf"), eta)
    visited = []
    for k in range(steps):
        value, grad = evaluate(x)
        visited.append(x)
        paid += value < previous
        previous = value
        if value < best_f:
            best_x, best_f, best_g = x, value, grad
        if k in marks:
            if paid < 0.75 * (k - since) or (then[1] == eta and then[0] <= best_f):
                then = (best_f, eta)
                eta /= 2
                x, grad = best_x, best_g
            else:
                then = (best_f, eta)
            paid, since = 0, k
        z = project(x - eta * unit(grad), image, threat)
        new = z if k == 0 else project(x + 0.75 * (z - x) + 0.25 * (x - before), image, threat)
        before, x = x, new
    return visited


@pytest.mark.parametrize(
    ("norm", "threat"), [("linf", LINF8), ("l2", PSNR35), ("linf", PSNR35)], ids=str
)
def test_the_points_it_visits_are_the_papers(norm, threat):
    """An independent, one-image version of the algorithm agrees at every step to 1e-5, through two
    halvings.
    """
    target, images, steps = frozen(ConvGates().double()), pictures(3).double(), 22
    attacker = APGDMargin(norm=norm, offset=0.5)
    view, job = begin(target, images, 3 * steps + 1, threat)
    visited = []
    original = APGDMargin.step_rule

    def spied(self, *arguments):
        rule = original(self, *arguments)
        evaluate = rule.evaluate
        rule.evaluate = lambda point, rows, share: (
            visited.append((rows.clone(), point.image.clone())),
            evaluate(point, rows, share),
        )[1]
        return rule

    APGDMargin.step_rule = spied
    try:
        attacker.perturb(view, images, torch.zeros(3, dtype=torch.int64), job)
    finally:
        APGDMargin.step_rule = original
    assert len(visited) > 12
    for row in range(3):
        slow = published(target, images[row : row + 1], threat, norm, steps, 0.5)
        fast = [image[rows == row] for rows, image in visited if bool((rows == row).any())]
        assert fast
        for one, other in zip(fast, slow, strict=False):
            assert float((one - other).abs().max()) < 1e-5


@pytest.mark.parametrize(
    "params",
    [
        pytest.param({}, id="default"),
        pytest.param({"norm": "linf"}, id="linf"),
        pytest.param({"norm": "l2"}, id="l2"),
        pytest.param({"restarts": 3}, id="restarts"),
        pytest.param({"rounding": "inside"}, id="inside"),
    ],
)
def test_recovers_and_never_makes_an_image_cheaper(params):
    target, images = frozen(ConvGates()), pictures(16)
    view, job = begin(target, images, 120, PSNR35)
    adversarial = APGDMargin(**params).perturb(
        view, images, torch.zeros(16, dtype=torch.int64), job
    )
    clean, won = (target.macs(target(x).decisions).double() for x in (images, adversarial))
    assert bool((won >= clean).all())
    assert float((won - clean).mean()) > 0.2 * float((target.ceiling - clean).mean())
    assert bool((view.left >= 0).all())


def test_without_a_bound_it_keeps_to_a_floor_of_its_own():
    target, images = frozen(ConvGates()), pictures(8)
    view, job = begin(target, images, 60, NONE)
    adversarial = APGDMargin(psnr=33.0).perturb(
        view, images, torch.zeros(8, dtype=torch.int64), job
    )
    total = squared_sum(difference(to_grid(adversarial), to_grid(images)))
    assert float(psnr(total, images[0].numel()).min()) > 32.5


def test_restarts_begin_elsewhere():
    target, images = frozen(ConvGates()), pictures(4)
    results = []
    for restarts in (1, 4):
        view, job = begin(target, images, 40, LINF8)
        results.append(
            APGDMargin(restarts=restarts).perturb(
                view, images, torch.zeros(4, dtype=torch.int64), job
            )
        )
    assert not torch.equal(*results)
