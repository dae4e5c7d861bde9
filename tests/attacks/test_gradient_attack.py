"""What attacks know: through surrogates, over draws, past a defense, around a monitor.

And what it costs.
"""

from fractions import Fraction

import pytest
import torch

from attacks.accuracy import Accuracy
from attacks.apgd import APGDMargin
from attacks.autoenergy import AutoEnergy
from attacks.deepsloth import DeepSloth
from attacks.gradauto import GradAuto
from attacks.gradmdm import GradMDM
from attacks.ilfo import ILFO
from attacks.objective import MarginLoss
from attacks.patch import Patch
from attacks.universal import Universal
from bench.api import Defense, Job, Output, Skip, Threat
from bench.evaluation.masking import gradients
from bench.evaluation.outputs import freeze
from bench.evaluation.view import TargetView
from bench.testing import ToyTarget, check_attack, problems, sample_images
from targets.defenses.jpeg import JPEG
from targets.defenses.monitor import Monitored
from targets.defenses.smoothing import RandomisedSmoothing
from targets.defenses.transforms import BitDepth
from targets.defenses.wrapped import Wrapped

THREAT = Threat("psnr", Fraction(25))
GRADIENT = (GradAuto, ILFO, GradMDM, DeepSloth, APGDMargin, Universal, Patch)


def frozen(target):
    freeze(target)
    return target


def attacked(attack, target, budget=40, threat=THREAT):
    images = sample_images((3, 8, 8))
    view = TargetView.of(target, images, budget, attack.access)
    job = Job(threat, budget, tuple(f"i{k}" for k in range(len(images))))
    with torch.no_grad():
        labels = target(images).logits.argmax(1)
    return attack.perturb(view, images.clone(), labels, job), view, images


def dearer(attack, target, budget=40):
    saved, _, images = attacked(attack, target, budget)
    with torch.no_grad():
        return int(
            (target.macs(target(saved).decisions) - target.macs(target(images).decisions)).sum()
        )


@pytest.mark.parametrize("kind", GRADIENT)
def test_every_gradient_attack_has_the_options(kind):
    made = kind(knows="network", surrogate=False, draws=3, mask_grad="ste")
    assert (made.knows, made.surrogate, made.draws, made.mask_grad) == ("network", False, 3, "ste")
    refusal = made.supports(ToyTarget(), Threat("patch", Fraction(3)) if kind is Patch else THREAT)
    assert isinstance(refusal, Skip)
    assert "knows the network" in refusal.reason


def test_without_the_surrogate_a_coarse_stage_is_a_wall():
    target = frozen(BitDepth(bits=3).wrap(ToyTarget()))
    assert dearer(GradAuto(surrogate=False), target) == 0
    assert dearer(GradAuto(), target) > 0

    found = gradients(target, sample_images((3, 8, 8)))
    assert found.zero == 0
    assert found.without_surrogates == found.images > 0


def test_who_knows_the_network_alone_sees_its_units_and_leaves_no_trace():
    inner = frozen(ToyTarget())
    target = frozen(Monitored(inner, torch.ones(3), 0.0, 2.5))
    view = TargetView.of(target, sample_images((3, 8, 8)), 20).using(knows="network")
    output = view(sample_images((3, 8, 8)), torch.arange(6))
    assert output.margins.shape == (6, 3)
    assert view.ceiling == inner.ceiling
    assert view.ledger.trace(0) == []
    assert view.ledger.used.tolist() == [1] * 6


def test_unaware_equals_attacking_the_bare_network():
    """The images are those that the same attack makes of the network itself."""
    inner = frozen(ToyTarget())
    target = frozen(JPEG(quality=50).wrap(ToyTarget()))
    unaware, _, _ = attacked(GradAuto(knows="network"), target)
    bare, _, _ = attacked(GradAuto(), inner)
    assert torch.equal(unaware, bare)


def test_every_draw_is_paid_for_and_left_counts_evaluations():
    target = frozen(RandomisedSmoothing(sigma=0.05, draws=8).wrap(ToyTarget()))
    view = TargetView.of(target, sample_images((3, 8, 8)), 20).using(draws=4)
    assert view.left.tolist() == [5] * 6
    rows = torch.arange(6)
    view(sample_images((3, 8, 8)), rows)
    assert view.ledger.used.tolist() == [4] * 6
    loss = lambda output: [output.logit_margins.sum(1)]  # noqa: E731
    view.gradients(loss, sample_images((3, 8, 8)), rows)
    assert view.ledger.used.tolist() == [16] * 6
    assert view.left.tolist() == [1] * 6
    assert TargetView.of(target, sample_images((3, 8, 8)), 150).each == 2
    assert TargetView.of(target, sample_images((3, 8, 8)), 10_000).each == 8
    assert (
        TargetView.of(frozen(ToyTarget()), sample_images((3, 8, 8)), 10_000).using(draws=5).each
        == 1
    )


def test_the_gradient_over_draws_is_the_mean_of_theirs():
    target = frozen(RandomisedSmoothing(sigma=0.1, draws=4).wrap(ToyTarget()))
    images, rows = sample_images((3, 8, 8)), torch.arange(6)
    loss = lambda output: [output.logit_margins.sum(1)]  # noqa: E731
    _, (together,) = TargetView.of(target, images, 100).using(draws=3).gradients(loss, images, rows)
    single = TargetView.of(target, images, 100).using(draws=1)
    found = [single.gradients(loss, images, rows)[1][0] for _ in range(3)]
    torch.testing.assert_close(together, torch.stack(found).mean(0))
    assert not torch.equal(found[0], found[1])


MORE = pytest.mark.slow  # the same loop with another loss


@pytest.mark.parametrize(
    "kind",
    [GradAuto, pytest.param(ILFO, marks=MORE), pytest.param(DeepSloth, marks=MORE), APGDMargin],
)
def test_attacks_keep_their_contract_on_random_and_coarse_targets(kind):
    for target in (
        RandomisedSmoothing(sigma=0.05, draws=3).wrap(ToyTarget()),
        JPEG().wrap(ToyTarget()),
    ):
        assert not problems(check_attack(kind(), target, budget=20))


def test_the_joint_loss_by_hand():
    """Gates to be opened at their weights, the alarm to be kept silent at weight 1."""
    units = Monitored(ToyTarget(), torch.ones(3), 0.0, 2.5).units
    margins = torch.tensor([[-1.0, 0.5, 2.0, 0.25]])
    output = Output(torch.zeros(1, 4), margins, margins, margins > 0)
    joint = MarginLoss.over(units, "uniform", "logit", 0.1, torch.device("cpu"), alarm="avoid")
    assert float(joint.missing(output)) == pytest.approx((0.1 + 1.0) + (0.1 + 0.25))
    opened = MarginLoss.over(units, "uniform", "logit", 0.1, torch.device("cpu"))
    assert float(opened.missing(output)) == pytest.approx(0.1 + 1.0)
    by_cost = MarginLoss.over(units, "cost", "logit", 0.0, torch.device("cpu"), alarm="avoid")
    torch.testing.assert_close(by_cost.weight, torch.tensor([1 / 3, 1 / 3, 1 / 3, 1.0]))


def test_who_avoids_the_alarm_keeps_nothing_that_sets_it_off():
    target = frozen(Monitored(ToyTarget(), torch.ones(3), 0.0, 2.5))
    saved, _, images = attacked(GradAuto(alarm="avoid"), target)
    with torch.no_grad():
        before, after = target(images).decisions[:, -1], target(saved).decisions[:, -1]
    assert not bool((after & ~before).any())
    raised, _, _ = attacked(GradAuto(), target)
    with torch.no_grad():
        assert int(target(raised).decisions[:, -1].sum()) >= int(after.sum())
    assert isinstance(GradAuto(alarm="avoid").supports(ToyTarget(), THREAT), Skip)
    assert isinstance(DeepSloth(alarm="avoid").supports(target, THREAT), Skip)


def test_accuracy_changes_predictions_and_keeps_its_contract():
    target = frozen(ToyTarget())
    saved, _, images = attacked(Accuracy(), target, threat=Threat("psnr", Fraction(12)))
    with torch.no_grad():
        changed = (target(saved).logits.argmax(1) != target(images).logits.argmax(1)).float().mean()
    assert float(changed) > 0
    assert not problems(check_attack(Accuracy(), budget=20))


class Blind(Defense):
    """Hides the gradient of margins without a surrogate."""

    def wrap(self, target, learnt=None):
        class Hidden(Wrapped):
            def before(self, images):
                return (images * 15).round() / 15

        return Hidden(target)


class Sure(Defense):
    """Gates so steep that a sigmoid has no slope."""

    def wrap(self, target, learnt=None):
        class Steep(Wrapped):
            def forward(self, images, decisions=None):
                output = super().forward(images, decisions)
                return Output(
                    output.logits, output.margins, output.logit_margins * 1e4, output.decisions
                )

        return Steep(target)


def test_hidden_gradients_and_saturated_gates_are_found():
    images = sample_images((3, 8, 8))
    hidden = gradients(frozen(Blind().wrap(ToyTarget())), images)
    assert hidden.zero == hidden.images > 0
    sure = gradients(frozen(Sure().wrap(ToyTarget())), images)
    assert sure.saturated > 0
    plain = gradients(frozen(ToyTarget()), images)
    assert plain.zero == plain.saturated == plain.without_surrogates == 0


def test_autoenergy_has_a_transfer_attack_among_its_members():
    assert AutoEnergy.members[-1] == ("pry", {"knows": "network"})
