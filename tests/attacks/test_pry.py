"""Pry against a one-image version written from its page, and its controls."""

import math
from fractions import Fraction

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, begin, frozen, pictures

from attacks.box import reach
from attacks.pry import Pry
from bench.api import Threat
from bench.image import difference, project, settle, squared_sum, to_float, to_grid

L2 = Threat("l2", Fraction(1, 2))


def trajectory(
    target, image, threat, steps, *, inside, beta=0.75, lr=0.5, end=0.02, T=0.001, o=0.0005, s=1.0
):
    """The points that the attack stands at, one image, in plain sums over units."""
    far, values = reach(threat, image.numel(), 30.0), image.numel()
    cost = target.units.cost.double()
    weight = (cost / cost.sum()).tolist()
    x, before, visited = image[None], image[None], []
    speed, last, stood = [0.0] * len(weight), None, None
    for k in range(steps):
        share = k / (steps - 1)
        seen = x
        if inside:
            seen = to_float(settle(x, to_grid(image[None]), threat))
        visited.append(seen[0])
        inputs = seen.clone().requires_grad_()
        margins = target(inputs).logit_margins[0]
        now = margins.detach().double().tolist()
        hope = [1.0] * len(weight)
        if s and last is not None:
            moved = max(float((seen - stood).norm()), 1e-6)
            for j, (new, old) in enumerate(zip(now, last, strict=True)):
                speed[j] = max(0.9 * speed[j], abs(new - old) / moved)
                within = max(s * speed[j] * far * values**0.5, 1e-9)
                hope[j] = 1 / (1 + (max(o - new, 0) / within) ** 2)
        last, stood = now, seen
        loss = sum(
            hope[j] * weight[j] * torch.log(1 + torch.relu(o - margins[j]) / T)
            for j in range(len(weight))
        )
        (gradient,) = torch.autograd.grad(loss, inputs)
        eta = (end + (lr - end) * (1 + math.cos(math.pi * share)) / 2) * far
        if threat.norm == "linf":
            unit = gradient.sign()
        else:
            unit = gradient * values**0.5 / float(gradient.norm())
        z = project(x - eta * unit, image[None], threat)
        new = project(x + beta * (z - x) + (1 - beta) * (x - before), image[None], threat)
        x, before = new, x
    return visited


@pytest.mark.parametrize("threat", [pytest.param(t, id=t.norm) for t in (PSNR35, L2, LINF8)])
@pytest.mark.parametrize("rounding", ["after", "inside"])
@pytest.mark.parametrize("radii", [pytest.param(0.0, id="all"), pytest.param(1.0, id="near")])
def test_it_stands_where_the_page_says(threat, rounding, radii, monkeypatch):
    """Verification is left out, so that every step costs 3 and the shares are those of the steps."""
    target, images = frozen(ConvGates()), pictures(3)
    steps = 8
    view, job = begin(target, images, 3 * steps, threat)
    attacker = Pry(rounding=rounding, verify=False, give_up=radii)
    visited = [[], [], []]
    original = Pry.step_rule

    def spied(self, *arguments):
        rule = original(self, *arguments)
        evaluate = rule.evaluate

        def watched(point, rows, share):
            for place, row in enumerate(rows.tolist()):
                visited[row].append(point.image[place].clone())
            return evaluate(point, rows, share)

        rule.evaluate = watched
        return rule

    monkeypatch.setattr(Pry, "step_rule", spied)
    attacker.perturb(view, images, torch.zeros(3, dtype=torch.int64), job)
    for row in range(3):
        slow = trajectory(target, images[row], threat, steps, inside=rounding == "inside", s=radii)
        fast = visited[row]
        assert len(fast) >= 2
        for one, other in zip(fast, slow, strict=False):
            assert float((one - other).abs().max()) < (2e-4 if rounding == "after" else 1.01 / 255)


@pytest.mark.parametrize("threat", [pytest.param(t, id=t.norm) for t in (PSNR35, L2, LINF8, NONE)])
def test_it_never_makes_an_image_cheaper(threat):
    target, images = frozen(ConvGates()), pictures(12)
    view, job = begin(target, images, 60, threat)
    adversarial = Pry().perturb(view, images, torch.zeros(12, dtype=torch.int64), job)
    saved = settle(adversarial, to_grid(images), threat)
    clean, won = (target.macs(target(x).decisions) for x in (images, to_float(saved)))
    assert bool((won >= clean).all())
    assert int(won.sum()) > int(clean.sum())


def test_where_everything_runs_nothing_is_changed():
    target, images = frozen(ConvGates(units=0)), pictures(2)
    view, job = begin(target, images, 60, PSNR35)
    adversarial = Pry().perturb(view, images, torch.zeros(2, dtype=torch.int64), job)
    assert int(squared_sum(difference(to_grid(adversarial), to_grid(images))).sum()) == 0
    assert int(view.ledger.used.max()) == 1
