"""Attacks written for tokens: one step by hand, their scopes, and answers that stay."""

from fractions import Fraction

import pytest
import torch
import torch.nn.functional as F
from gated_networks import natural
from gated_tokens import dropping, fixed, halting
from gated_toys import ConvGates, Exits, Halting, begin, frozen, pictures

from attacks.desparsify import DeSparsify
from attacks.ilfo import ILFO
from attacks.patch import Patch
from attacks.silent import CleanAnswer, LateWork, Silent
from attacks.token_losses import desparsify, is_cumulative, openness, slowformer
from attacks.universal import Universal, fit_losses
from bench.api import Job, Threat
from bench.image import settle, to_float, to_grid

LINF16 = Threat("linf", Fraction(16, 255))
PSNR30 = Threat("psnr", Fraction(30))
PATCH9 = Threat("patch", Fraction(9))


def macs(target, images):
    with torch.no_grad():
        return target.macs(target(images).decisions)


def labels_of(target, images):
    with torch.no_grad():
        return target(images).logits.argmax(1)


def test_openness_by_hand_on_tokens_that_halt():
    """The mean over blocks and tokens of the squared sum of scores; a sum stands still once its
    token has halted."""
    target, images = halting(), natural(3)
    run = target.walk(images)
    total = torch.zeros(3, 65)
    alive = torch.ones(3, 65, dtype=torch.bool)
    squares = []
    for block in range(5):
        total = total + torch.where(alive, run.scores[:, block], 0)
        squares.append(total.square())
        alive = alive & (total < 0.99)
    expected = torch.stack(squares, 1).mean((1, 2))
    torch.testing.assert_close(openness(target(images), target.units), expected)


def test_openness_by_hand_on_tokens_that_are_kept():
    target, images = dropping(), natural(3)
    output = target(images)
    expected = (1 - (output.margins + 0.5)).square().mean(1)
    torch.testing.assert_close(openness(output, target.units), expected)


def test_slowformer_ponders_where_tokens_halt_and_adds_keep_scores_elsewhere():
    target, images = dropping(), natural(3)
    output = target(images)
    torch.testing.assert_close(slowformer(output, target.units), -(output.margins + 0.5).mean(1))
    assert not is_cumulative(target.units)
    assert is_cumulative(halting().units)
    assert is_cumulative(Halting().units)
    assert "halting" in ILFO(loss="ponder").supports(target, PSNR30).reason


def test_slowformer_lowers_as_remainders_grow():
    """Its gradient is that of the last sums before tokens halt: a step down lets them ponder."""
    target = halting()
    inputs = natural(2).requires_grad_()
    output = target(inputs)
    loss = slowformer(output, target.units)
    (grad,) = torch.autograd.grad(loss.sum(), inputs)
    moved = inputs.detach() - 1e-4 * grad / grad.flatten(1).norm(dim=1)[:, None, None, None]
    after = target(moved)
    assert torch.equal(after.decisions, output.decisions), "too long a step"
    assert bool((slowformer(after, target.units) < loss.detach()).all())


def test_one_step_of_desparsify_by_hand():
    target = halting().double()
    images = natural(2).double()
    labels = labels_of(target, images)
    view, job = begin(target, images, 4, LINF16)
    attacker = DeSparsify(steps=2, lr=0.1, iterate="last", verify=False)
    found = attacker.perturb(view, images, labels, job)
    for row in range(2):
        x = images[row : row + 1].clone().requires_grad_()
        output = target(x)
        sums = 0.99 - output.margins
        loss = sums.square().mean() + 8e-4 / 10 * F.cross_entropy(
            output.logits, labels[row : row + 1]
        )
        (grad,) = torch.autograd.grad(loss, x)
        expected = (images[row : row + 1] - 0.1 * 16 / 255 * grad.sign()).clamp(0, 1)
        torch.testing.assert_close(found[row : row + 1], expected.to(found), rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [halting, dropping], ids=["halting", "dropping"])
def test_desparsify_wins_back_more_than_noise(make):
    target, images = make(), natural(4)
    view, job = begin(target, images, 61, LINF16)
    found = DeSparsify().perturb(view, images, labels_of(target, images), job)
    saved = to_float(settle(found, to_grid(images), LINF16))
    draw = torch.Generator().manual_seed(3)
    noise = (images + 16 / 255 * torch.randn(images.shape, generator=draw).sign()).clamp(0, 1)
    clean, won, blurred = (int(macs(target, x).sum()) for x in (images, saved, noise))
    assert won > clean
    assert won > blurred


def test_desparsify_needs_gates_with_an_upper_bound():
    assert DeSparsify().supports(frozen(ConvGates()), LINF16) is None
    assert "upper bounds" in DeSparsify().supports(fixed(), LINF16).reason
    assert "upper bound" in Universal(loss="desparsify").supports(fixed(), LINF16).reason


def test_the_universal_form_uses_the_losses_of_tokens():
    target, images = halting(), natural(3)
    view, _ = begin(target, images, 9)
    output, labels = target(images), labels_of(target, images)
    for name, expected in (
        ("desparsify", desparsify(output, target.units, labels)),
        ("slowformer", slowformer(output, target.units)),
    ):
        (found,) = fit_losses(Universal(loss=name), view, labels)(output)
        torch.testing.assert_close(found, expected)


def test_class_universal_is_one_perturbation_a_class_by_the_targets_own_prediction():
    """Two steps by hand: each class moves along the sum over its own images."""
    target, images = frozen(Exits().double()), pictures(12, seed=99).double()
    labels = labels_of(target, images)
    assert len(labels.unique()) > 1
    view, job = begin(target, images, 8, LINF16)
    attacker = Universal(loss="desparsify", per="class", batch=0, lr=0.1, schedule="constant")
    found = attacker.fit(view, images, job)["delta"]
    assert found.shape == (10, *images.shape[1:])
    high = float(target.units.high[0])
    delta = torch.zeros_like(found)
    for _ in range(2):
        for kind in labels.unique().tolist():
            total = torch.zeros_like(images[:1])
            for i in (labels == kind).nonzero().flatten().tolist():
                x = (images[i : i + 1] + delta[kind]).clamp(0, 1).requires_grad_()
                output = target(x)
                values = output.margins + target.units.threshold
                loss = (high - values).square().mean() + 8e-4 / 10 * F.cross_entropy(
                    output.logits, labels[i : i + 1]
                )
                total += torch.autograd.grad(loss, x)[0]
            delta[kind] = (delta[kind] - 0.1 * 16 / 255 * total[0].sign()).clamp(
                -16 / 255, 16 / 255
            )
    torch.testing.assert_close(found, delta, rtol=0, atol=1e-5)
    assert view.ledger.used.tolist() == [7] * 12, "a prediction, and two passes of three"
    absent = [kind for kind in range(10) if kind not in labels.tolist()]
    assert bool((found[absent] == 0).all())
    fresh = pictures(5, seed=3).double()
    job = Job(LINF16, 1, tuple("abcde"), fitted={"delta": found})
    kinds = torch.tensor([int(labels[0])] * 5)
    moved = attacker.perturb(view, fresh, kinds, job)
    torch.testing.assert_close(
        moved, (fresh + found[int(labels[0])]).clamp(0, 1), rtol=0, atol=1e-6
    )


def test_slowformers_patch_wins_back_more_than_a_grey_square():
    target, images = halting(), natural(8)
    attacker = Patch(loss="slowformer", batch=0)
    view, job = begin(target, images, 60, PATCH9)
    patch = attacker.fit(view, images, job)["patch"]
    grey = images.clone()
    grey[:, :, :9, :9] = 0.5
    pasted = images.clone()
    pasted[:, :, :9, :9] = patch
    assert int(macs(target, pasted).sum()) > int(macs(target, grey).sum())


def silent_case():
    target = halting()
    images = natural(24)
    heads = target(images).decisions.view(24, 5, 65)[:, :, 0]
    early = images[~heads[:, -1]]
    assert len(early) >= 4, "on some images the class token halts early"
    return target, early[:6]


def test_the_silent_attack_keeps_every_answer_and_the_class_tokens_path():
    target, images = silent_case()
    labels = labels_of(target, images)
    before = target(images).decisions.view(len(images), 5, 65)
    view, job = begin(target, images, 100, LINF16)
    found = Silent().perturb(view, images, labels, job)
    saved = to_float(settle(found, to_grid(images), LINF16))
    after = target(saved).decisions.view(len(images), 5, 65)
    assert torch.equal(labels_of(target, saved), labels)
    assert torch.equal(after[:, :, 0], before[:, :, 0]), "the class token runs the same blocks"
    clean, won = macs(target, images), macs(target, saved)
    assert bool((won >= clean).all())
    assert int(won.sum()) > int(clean.sum())


def test_what_is_late_by_hand():
    target, images = silent_case()
    output = target(images)
    answer = CleanAnswer.of(target.units, output, labels_of(target, images))
    late = answer.late.view(len(images), 5, 65)
    runs = output.decisions.view(len(images), 5, 65)
    assert not bool(late[:, :, 0].any())
    for row in range(len(images)):
        for block in range(5):
            assert bool((late[row, block, 1:] == ~runs[row, block, 0]).all())


def test_the_silent_loss_by_hand():
    target, images = silent_case()
    images = images[:2]
    output = target(images)
    labels = labels_of(target, images)
    answer = CleanAnswer.of(target.units, output, labels)
    view, _ = begin(target, images, 9)
    attacker = Silent(offset=0.05, hold=2.0)
    rule = LateWork(view, answer, attacker.penalty, attacker.offset, attacker.hold)
    found = rule.loss(output, torch.arange(2))
    share = 1 / len(target.units)
    for row in range(2):
        expected = 0.0
        for unit in range(len(target.units)):
            margin = float(output.margins[row, unit])
            block = unit // 65 * 65
            stopped = not bool(output.decisions[row, block])
            if unit % 65 and stopped:
                expected += share * max(0.05 - margin, 0.0)
            if unit % 65 == 0:
                sign = -1 if stopped else 1
                expected += 2 * share * max(0.05 - sign * margin, 0.0)
        assert float(found[row]) == pytest.approx(expected, rel=1e-4)


def test_an_image_with_another_answer_is_never_kept():
    target, images = silent_case()
    labels = (labels_of(target, images) + 1) % 10
    view, job = begin(target, images, 40, LINF16)
    found = Silent().perturb(view, images, labels, job)
    assert torch.equal(found, images)


def test_the_silent_attack_needs_a_class_token_that_halts():
    assert Silent().supports(halting(), LINF16) is None
    for other in (dropping(), frozen(ConvGates()), frozen(Halting())):
        assert "class token" in Silent().supports(other, LINF16).reason


def test_where_all_stop_with_the_class_token_nothing_late_is_won():
    target = halting(stop="class")
    images = natural(6)
    labels = labels_of(target, images)
    view, job = begin(target, images, 60, LINF16)
    found = Silent().perturb(view, images, labels, job)
    assert torch.equal(macs(target, found), macs(target, images))
