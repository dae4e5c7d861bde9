"""The stages of the SkipNet recipe: what their losses are, and that the policy gradient is one."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from bench.api import Moment
from bench.errors import PlanError
from targets.recipes.skipnet import (
    AdversarialStage,
    BudgetStage,
    HybridStage,
    SkipNetRecipe,
    StaticStage,
    SupervisedStage,
)
from targets.resnet import ResNet
from targets.skipnet import SkipNet


def batch(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand((count, 3, 32, 32), generator=generator), torch.randint(
        0, 10, (count,), generator=generator
    )


def built(stage, seed=0):
    torch.manual_seed(seed)
    target = stage.build(10)
    stage.begin_epoch(target, ())
    return target


def test_names_and_parameters():
    assert StaticStage().weights_name("static") == "resnet-20-static"
    assert BudgetStage().weights_name("budget") == "skipnet-20-budget"
    assert BudgetStage(depth=110, gate="ff2").weights_name("budget") == "skipnet-110-ff2-budget"
    assert HybridStage(depth=50, layout="imagenet").weights_name("hrl") == "skipnet-50-imagenet-hrl"
    assert HybridStage(depth=50, layout="imagenet").twin_name() == "resnet-50-imagenet-static"
    for name, stage in SkipNetRecipe.stages.items():
        target = built(stage(depth=8))
        assert isinstance(target, ResNet if name == "static" else SkipNet)
        assert type(target)(**stage(depth=8).target_params()).classes == 10
        assert stage.start == "" or stage.start in SkipNetRecipe.stages
        assert stage.__doc__.startswith(f"{name}: ")
    assert built(HybridStage(depth=8)).evaluation.mask_grad == "none"
    assert built(BudgetStage(depth=8)).evaluation.mask_grad == "ste"


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"epochs": 0}, id="epochs"),
        pytest.param({"lr": 0.0}, id="lr"),
        pytest.param({"batch": -1}, id="batch"),
        pytest.param({"draws": 0}, id="draws"),
        pytest.param({"temperature": 0.0}, id="temperature"),
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(PlanError, match=next(iter(wrong))):
        HybridStage(**wrong)


def test_supervised_loss_is_cross_entropy():
    stage = SupervisedStage(depth=8)
    target = built(stage)
    images, labels = batch(6)
    loss, shown = stage.loss(target, images, labels, Moment(0.9, torch.Generator()))
    output = target(images)
    torch.testing.assert_close(loss, F.cross_entropy(output.logits, labels))
    assert float(shown["open"]) == pytest.approx(float(output.decisions.float().mean()))
    loss.backward()
    assert float(target.control.proj.bias.grad.abs()) > 0, (
        "gates learn through straight-through masks"
    )


def test_budget_penalty_ramps_over_the_first_half():
    stage = BudgetStage(depth=20, target_open=0.25, penalty=8.0)
    target = built(stage).eval()
    images, labels = batch(6)
    output = target(images)
    entropy = F.cross_entropy(output.logits, labels)
    opened = float(output.decisions.float().mean())
    for done, ramp in [(0.0, 0.0), (0.25, 0.5), (0.5, 1.0), (0.9, 1.0)]:
        loss, _ = stage.loss(target, images, labels, Moment(done, torch.Generator()))
        assert float((loss - entropy).detach()) == pytest.approx(
            ramp * 8 * (opened - 0.25) ** 2, abs=1e-5
        )


def test_budget_gradient_is_that_of_the_mean_gate_value():
    stage = BudgetStage(depth=20, target_open=0.25)
    target = built(stage).eval()
    images, labels = batch(4)
    with_penalty, _ = stage.loss(target, images, labels, Moment(1.0, torch.Generator()))
    without, _ = stage.loss(target, images, labels, Moment(0.0, torch.Generator()))
    (got,) = torch.autograd.grad(with_penalty - without, target.control.proj.bias)
    output = target(images)
    opened = float(output.decisions.float().mean())
    (mean,) = torch.autograd.grad(output.margins.mean(), target.control.proj.bias)
    torch.testing.assert_close(got, 8 * 2 * (opened - 0.25) * mean, rtol=1e-4, atol=1e-7)


def test_returns_by_hand():
    # one image run twice, three gates; alpha = 0.3, so that each closed gate earns 0.1
    actions = torch.tensor([[True, False, False], [False, True, True]])
    error = torch.tensor([1.0, 3.0])
    returns = torch.tensor([[0.2, 0.2, 0.1], [0.1, 0.0, 0.0]]) - error[:, None]
    advantage = HybridStage(alpha=0.3, draws=2).advantage(actions, error)
    torch.testing.assert_close(advantage, returns - returns.flip(0))
    advantage = HybridStage(alpha=0.3, draws=1).advantage(actions, error)
    torch.testing.assert_close(advantage, returns - returns.mean(0))


def test_the_policy_gradient_is_that_of_the_expected_return():
    stage = HybridStage(depth=8, alpha=2.0, draws=400)
    target = built(stage, seed=1)
    with torch.no_grad():
        target.control.proj.weight.mul_(3)
    images, labels = batch(1)
    bias = target.control.proj.bias
    loss, shown = stage.loss(target, images, labels, Moment(0.0, torch.Generator().manual_seed(0)))
    (estimate,) = torch.autograd.grad(loss, bias)

    expected = torch.zeros(())
    for actions in itertools.product([False, True], repeat=len(target.units)):
        forced = torch.tensor([actions])
        output = target(images, forced)
        values = output.margins + 0.5
        probability = torch.where(forced, values, 1 - values).prod()
        reward = (~forced).float().mean() * stage.alpha - F.cross_entropy(
            output.logits, labels
        ).detach()
        expected = expected - probability * reward
    (exact,) = torch.autograd.grad(expected, bias)
    assert float(exact.abs()) > 0.05
    assert float(estimate) == pytest.approx(float(exact), rel=0.15)
    assert 0.05 < float(shown["open"]) < 0.95


def test_hybrid_stage_leaves_the_statistics_alone():
    stage = HybridStage(depth=8)
    target = built(stage)
    before = {name: value.clone() for name, value in target.named_buffers()}
    images, labels = batch(4)
    loss, _ = stage.loss(target, images, labels, Moment(0.0, torch.Generator().manual_seed(0)))
    loss.backward()
    assert all(torch.equal(value, before[name]) for name, value in target.named_buffers())
    assert float(target.fc.weight.grad.abs().sum()) > 0


def test_hybrid_stage_draws_from_its_generator_only():
    stage = HybridStage(depth=8)
    target = built(stage)
    images, labels = batch(4)
    losses = []
    for seed in (1, 1, 2):
        torch.rand(seed)
        losses.append(
            float(
                stage.loss(
                    target, images, labels, Moment(0.0, torch.Generator().manual_seed(seed))
                )[0].detach()
            )
        )
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("gate", ["rnn", "ff1"])
def test_the_temperature_divides_the_logits_of_the_gates(gate):
    stage = HybridStage(depth=8, gate=gate, temperature=4.0)
    target = built(stage)
    images, _ = batch(4)
    with torch.no_grad():
        before = target(images)
        stage.begin(target)
        after = target(images)
    torch.testing.assert_close(after.logit_margins[:, 0], before.logit_margins[:, 0] / 4)
    assert torch.equal(after.decisions, before.decisions)


@pytest.mark.parametrize(
    ("temperature", "weights"),
    [
        pytest.param(0.0, lambda gaps: torch.ones_like(gaps), id="uniform"),
        pytest.param(0.02, lambda gaps: 1 / (0.02 + gaps), id="nearest-first"),
    ],
)
def test_a_step_of_the_inner_attack_by_hand(temperature, weights):
    """The start is noise of half the radius; the step is two radii along the weighted margins."""
    stage = AdversarialStage(depth=8, psnr=30.0, steps=1, temperature=temperature)
    target = built(stage)
    images = batch(3)[0] * 0.5 + 0.25
    found = stage.attack(target, images, Moment(0.0, torch.Generator().manual_seed(5)))
    assert target.training
    radius = (3072 * 1e-3) ** 0.5
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(5))
    target.eval()
    offset = temperature / 2 or 0.03
    for image, drawn, got in zip(images, noise, found, strict=True):
        start = (image + drawn * radius * 0.5 / drawn.norm()).requires_grad_()
        margins = target(start[None]).logit_margins[0]
        closed = [j for j, margin in enumerate(margins.tolist()) if margin < offset]
        slopes = [torch.autograd.grad(margins[j], start, retain_graph=True)[0] for j in closed]
        by_gap = weights(offset - margins.detach()[closed])
        uphill = sum(w * slope for w, slope in zip(by_gap, slopes, strict=True))
        moved = start.detach() - image + 2 * radius * uphill / uphill.norm()
        expected = image + moved * min(1.0, radius / float(moved.norm()))
        torch.testing.assert_close(got, expected.clamp(0, 1), rtol=1e-3, atol=1e-5)


def test_the_adversarial_loss_by_hand():
    stage = AdversarialStage(depth=8, psnr=5.0, steps=2, target_open=0.25, hold=3.0)
    target = built(stage, seed=3).eval()  # of which the attack opens a gate
    images, labels = batch(6)
    moment = lambda done: Moment(done, torch.Generator().manual_seed(2))  # noqa: E731
    attacked = stage.attack(target, images, moment(0.0))
    target.eval()
    target.train = lambda mode=True: target  # statistics of batches would differ by batch
    loss, shown = stage.loss(target, images, labels, moment(1.0))
    clean, moved = target(images), target(attacked)
    opened = [each.decisions.float().mean(1) for each in (clean, moved)]
    assert (opened[1] > opened[0]).any()
    errors = [F.cross_entropy(each.logits, labels) for each in (clean, moved)]
    held = 3 * (opened[1] - opened[0]).clamp(min=0).mean()
    expected = sum(errors) + 8 * (opened[0].mean() - 0.25) ** 2 + held
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-4)
    assert float(shown["attacked"]) == pytest.approx(float(opened[1].mean()), abs=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [pytest.param({"steps": 0}, id="steps"), pytest.param({"temperature": -0.1}, id="temperature")],
)
def test_settings_of_the_inner_attack_that_make_no_sense(wrong):
    with pytest.raises(PlanError, match=next(iter(wrong))):
        AdversarialStage(**wrong)
