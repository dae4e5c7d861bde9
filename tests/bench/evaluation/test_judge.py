"""What the judge believes, what it puts right, and what it refuses."""

from fractions import Fraction

import pytest
import torch

from bench.api import Output
from bench.contracts.threat import Threat
from bench.errors import ContractBroken
from bench.evaluation import target_checks
from bench.evaluation.judge import judge_images
from bench.evaluation.outputs import (
    check_macs,
    check_margins,
    check_output,
    check_unchanged,
    freeze,
    near_threshold,
)
from bench.image import difference, inside
from bench.testing import ToyTarget, sample_images

LINF = Threat("linf", Fraction(8, 255))


@pytest.fixture
def target():
    return ToyTarget()


@pytest.fixture
def clean8(target):
    return (sample_images(target.image_shape)[:3] * 255).round().to(torch.uint8)


def test_freezing(target):
    state = freeze(target.train())
    assert not target.training
    assert not any(parameter.requires_grad for parameter in target.parameters())
    check_unchanged(target, state, "nobody")
    with torch.no_grad():
        target.blocks[2].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(
        ContractBroken, match=r"somebody changed the target's weights: blocks\.2\.weight"
    ):
        check_unchanged(target, state, "somebody")


@pytest.mark.parametrize("module", ["", "gates.1"])
def test_train_mode_is_seen(target, module):
    state = freeze(target)
    target.get_submodule(module).train()
    with pytest.raises(ContractBroken, match="to train mode"):
        check_unchanged(target, state, "somebody")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            {"logits": torch.zeros(3, 5)},
            r"logits have shape \(3, 5\), expected \(3, 4\)",
            id="logits-shape",
        ),
        pytest.param(
            {"margins": torch.zeros(2, 3)}, r"margins have shape \(2, 3\)", id="margins-shape"
        ),
        pytest.param({"logit_margins": None}, "NoneType", id="no-logit-margins"),
        pytest.param(
            {"decisions": torch.zeros(3, 3)},
            "torch.float32, expected torch.bool",
            id="decisions-float",
        ),
        pytest.param(
            {"logits": torch.full((3, 4), float("nan"))},
            "logits are not all finite",
            id="logits-nan",
        ),
        pytest.param(
            {"margins": torch.full((3, 3), float("inf"))},
            "margins are not all finite",
            id="margins-infinite",
        ),
    ],
)
def test_outputs_are_held_to_their_shapes_and_values(target, change, said):
    good = {
        "logits": torch.zeros(3, 4),
        "margins": torch.zeros(3, 3),
        "logit_margins": torch.zeros(3, 3),
    }
    good["decisions"] = torch.zeros(3, 3, dtype=torch.bool)
    check_output(Output(**good), target, 3)
    with pytest.raises(ContractBroken, match=said):
        check_output(Output(**{**good, **change}), target, 3)


def test_prices_lie_between_floor_and_ceiling(target):
    decisions = torch.tensor([[True, False, True]])
    assert check_macs(target, decisions).tolist() == [7203 + 2 * 9472]
    for wrong in (7202, 35620):

        class Odd(ToyTarget):
            def macs(self, decisions, wrong=wrong):
                mixed = decisions.any(1) & ~decisions.all(1)
                return torch.where(mixed, wrong, super().macs(decisions))

        with pytest.raises(ContractBroken, match=r"outside \[7203, 35619\]"):
            check_macs(Odd(), decisions)
    target.macs = lambda d: 5
    with pytest.raises(ContractBroken, match="returns int, expected"):
        check_macs(target, decisions)


def test_decisions_are_those_of_the_margins(target):
    freeze(target)
    with torch.no_grad():
        output = target(sample_images(target.image_shape))
    check_margins(output, target)
    flipped = output.decisions.clone()
    flipped[0, 1] ^= True
    with pytest.raises(ContractBroken, match=r"unit block1 (ran though|did not run though)"):
        check_margins(Output(output.logits, output.margins, output.logit_margins, flipped), target)
    with pytest.raises(ContractBroken, match="different signs"):
        check_margins(
            Output(output.logits, output.margins, -output.logit_margins, output.decisions), target
        )


def test_float_noise_is_measured_and_small(target):
    freeze(target)
    noise = target_checks.probe(target, sample_images(target.image_shape))
    assert 1e-6 <= noise.logits < 1e-4
    assert 1e-6 <= noise.margins < 1e-4
    margins = torch.tensor([[noise.margins / 2, -noise.margins / 2, 2 * noise.margins]])
    assert near_threshold(margins, noise).tolist() == [[True, True, False]]


@pytest.mark.parametrize(
    "adversarial",
    [
        pytest.param(None, id="nothing"),
        pytest.param([1], id="list"),
        pytest.param(torch.zeros(3, 3, 8, 7), id="narrow"),
        pytest.param(torch.zeros(2, 3, 8, 8), id="short"),
        pytest.param(torch.zeros(3, 3, 8, 8).int(), id="integers"),
        pytest.param(torch.zeros(3, 3, 8, 8).bool(), id="flags"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(clean8, adversarial):
    with pytest.raises(ContractBroken, match="the attack returned"):
        judge_images(adversarial, clean8, LINF)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_one_bad_number_is_enough(clean8, value):
    images = clean8 / 255.0
    images[2, 1, 7, 7] = value
    with pytest.raises(ContractBroken, match="NaN or infinity"):
        judge_images(images, clean8, LINF)


@pytest.mark.parametrize(
    "kind", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str
)
def test_any_float_is_taken_and_nothing_keeps_a_graph(clean8, kind):
    images = (clean8 / 255.0).to(kind).requires_grad_()
    ruled = judge_images(images, clean8, Threat("none", Fraction(0)))
    assert not ruled.projected.requires_grad
    assert ruled.projected.dtype == torch.float32
    if kind != torch.bfloat16:  # eight bits of mantissa do not hold 256 levels
        assert torch.equal(ruled.saved, clean8)


def test_what_left_is_pulled_back_and_flagged_row_by_row(clean8):
    start = clean8 / 255.0
    images = start.clone()
    images[1] = (start[1] + 9 / 255).clamp(0, 1)
    images[2, 0, 0, 0] = -0.001 if float(start[2, 0, 0, 0]) < 0.02 else start[2, 0, 0, 0] + 8 / 255
    ruled = judge_images(images, clean8, LINF)
    assert ruled.overshoot.tolist()[:2] == [False, True]
    assert inside(difference(ruled.saved, clean8), LINF).all()
    assert float((ruled.projected - start).abs().max()) <= 8 / 255 + 1e-6
    outside = start.clone()
    outside[0, 0, 0, 0] = 1.01
    assert judge_images(outside, clean8, Threat("none", Fraction(0))).overshoot.tolist() == [
        True,
        False,
        False,
    ], "[0,1] binds always"
