import math

import pytest
import torch
from gated_toys import LINF8, NONE, PSNR35, ConvGates, Exits, Halting, begin, frozen, pictures

from attacks.deepsloth import DeepSloth, OwnBall, slowdown_loss
from attacks.objective import opening, uniform_exits
from bench.api import Output
from bench.errors import ContractBroken
from bench.image import difference, inside, to_grid


def of_exits(logits):
    empty = torch.zeros(len(logits), 0)
    return Output(logits[:, -1], empty, empty, empty.bool(), logits)


def test_the_loss_over_exits_by_hand():
    """Two exits before the last, K = 4: ln 4 each where uniform.

    Cross-entropy with uniform elsewhere; the last counts for nothing.
    """
    flat, sure = torch.zeros(4), torch.tensor([3.0, 0.0, 0.0, 0.0])
    logits = torch.stack([torch.stack([flat, flat, sure]), torch.stack([sure, flat, flat])])
    expected = [2 * math.log(4), math.log(4) + (math.log(math.exp(3) + 3) - 3 / 4)]
    assert uniform_exits(of_exits(logits)).tolist() == pytest.approx(expected)
    moving = logits.clone().requires_grad_()
    (grad,) = torch.autograd.grad(uniform_exits(of_exits(moving)).sum(), moving)
    assert torch.allclose(grad[:, :-1], logits[:, :-1].softmax(-1) - 0.25, atol=1e-6), (
        "softmax - 1/K: least where no class stands out"
    )
    assert float(grad[:, -1].abs().max()) == 0
    with pytest.raises(ContractBroken, match="has none"):
        uniform_exits(Output(flat, flat, flat, flat.bool()))


def test_the_loss_over_margins_by_hand():
    logit = torch.tensor([[0.0, 2.0]])
    output = Output(logit, logit, logit, logit > 0)
    weight = torch.tensor([0.25, 0.75])
    assert float(opening(output, weight)) == pytest.approx(
        0.25 * math.log(2) + 0.75 * math.log(1 + math.exp(-2))
    )


def test_auto_is_exits_where_there_are_any():
    assert slowdown_loss("auto", Exits().units).weight is None
    weight = slowdown_loss("auto", Halting().units).weight
    assert float(weight.sum()) == pytest.approx(1)


def released(target, images, start, steps, lr, ball):
    """The published loop, one image at a time, in float64: step, own ball, pixel range.

    The last iterate.
    """
    found = []
    for image, first in zip(images.split(1), start.split(1), strict=True):
        x = ball(first - image, 0)
        x = (image + x).clamp(0, 1)
        for step in range(steps - 1):
            inputs = x.clone().requires_grad_()
            exits = target(inputs).exits[0, :-1]
            loss = sum(-(one.log_softmax(0) / len(one)).sum() for one in exits)
            (grad,) = torch.autograd.grad(loss, inputs)
            x = (image + ball(x - lr(step, steps, grad) - image, step + 1)).clamp(0, 1)
        found.append(x)
    return torch.cat(found)


def test_the_linf_preset_is_the_published_loop():
    target, images = frozen(Exits().double()), pictures(4).double()
    view, job = begin(target, images, 1000, NONE)
    found = DeepSloth(**{**DeepSloth.presets["linf"], "steps": 6}).perturb(
        view, images, torch.zeros(4, dtype=torch.int64), job
    )
    start = images + 0.002 * (2 * job.draw(images.shape[1:]).double() - 1)
    expected = released(
        target,
        images,
        start,
        6,
        lambda step, steps, grad: 0.002 * grad.sign(),
        lambda delta, step: delta.clamp(-0.03125, 0.03125),
    )
    assert float((found - expected).abs().max()) < 1e-5
    assert float((found - images).abs().max()) > 0.005


def test_the_l2_preset_is_the_published_loop():
    """Gradients shortened to norm 1 and never lengthened, the rate falling as a cosine, the radius
    shrinking.
    """
    target, images, steps = frozen(Exits().double()), pictures(3).double(), 8
    params = {**DeepSloth.presets["l2"], "steps": steps, "shrink_every": 3}
    view, job = begin(target, images, 1000, NONE)
    found = DeepSloth(**params).perturb(view, images, torch.zeros(3, dtype=torch.int64), job)
    drawn = job.draw(images.shape[1:], normal=True).double()
    start = images + drawn / drawn.flatten(1).norm(dim=1)[:, None, None, None]

    def rate(step, steps, grad):
        factor = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / (steps - 1)))
        return factor * grad / max(1.0, float(grad.norm()))

    def ball(delta, step):
        radius = 0.9 ** (step // 3)
        return delta * min(1.0, radius / float(delta.norm()))

    expected = released(target, images, start, steps, rate, ball)
    assert float((found - expected).abs().max()) < 1e-5


def test_the_published_radius_ends_at_0_349():
    ball = OwnBall("l2", 1.0, 0.9, 50)
    clean = torch.full((1, 3, 8, 8), 0.5)
    far = clean + 1.0
    for _ in range(550):
        place = ball.place(far, clean, NONE)
    assert float((place.image - clean).norm()) == pytest.approx(0.9**10, rel=1e-5)
    assert pytest.approx(0.349, abs=5e-4) == 0.9**10


@pytest.mark.parametrize("threat", [PSNR35, LINF8], ids=str)
@pytest.mark.parametrize("victim", [Exits, ConvGates])
def test_slows_down_inside_its_threat(victim, threat):
    target, images = frozen(victim()), pictures(16)
    view, job = begin(target, images, 90, threat)
    adversarial = DeepSloth().perturb(view, images, target(images).logits.argmax(1), job)
    assert bool(inside(difference(to_grid(adversarial), to_grid(images)), threat).all())
    clean, won = (target.macs(target(x).decisions).double() for x in (images, adversarial))
    assert bool((won >= clean).all())
    assert float((won - clean).mean()) > 0.2 * float((target.ceiling - clean).mean())


def test_the_published_loss_needs_exits():
    attacker = DeepSloth(**DeepSloth.presets["linf"])
    assert "margins" in attacker.supports(frozen(ConvGates()), LINF8).reason
    assert attacker.supports(frozen(Exits()), LINF8) is None
    assert DeepSloth().supports(frozen(ConvGates()), LINF8) is None
