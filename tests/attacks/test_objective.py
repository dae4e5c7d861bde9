import dataclasses

import pytest
import torch
from gated_toys import NONE, ConvGates, Exits, Halting, begin, frozen, pictures

from attacks.ilfo import ILFO
from attacks.objective import MarginLoss, SquaredDistance, logit_shift, missing_ponder
from attacks.token_losses import is_cumulative
from bench.api import Output, Units

CPU = torch.device("cpu")


def units(count: int = 3) -> Units:
    names = [f"u{j}" for j in range(count)]
    return Units.gated(names, names, [100 * (j + 1) for j in range(count)])


def output(margins: list[list[float]], logit: list[list[float]] | None = None) -> Output:
    table = torch.tensor(margins, requires_grad=True)
    return Output(
        torch.zeros(len(margins), 2),
        table,
        table * 4 if logit is None else torch.tensor(logit),
        table.detach() > 0,
    )


def test_hinges_by_hand():
    seen = output([[-0.2, 0.3, -0.1], [0.1, 0.2, 0.3]])
    uniform = MarginLoss.over(units(), "uniform", "gate", 0.0, CPU)
    assert uniform.missing(seen).tolist() == pytest.approx([0.3, 0.0])
    assert uniform.finished(seen, torch.tensor([True, True])).tolist() == pytest.approx(
        [-0.3, -0.6]
    )
    by_cost = MarginLoss.over(units(), "cost", "gate", 0.0, CPU)
    assert by_cost.weight.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    assert by_cost.missing(seen).tolist() == pytest.approx([0.2 / 6 + 0.1 * 3 / 6, 0.0])
    logits = MarginLoss.over(units(), "uniform", "logit", 0.0, CPU)
    assert logits.missing(seen).tolist() == pytest.approx([1.2, 0.0], abs=1e-5)


def test_finished_loss_is_exactly_zero_where_it_is_not_asked_for():
    seen = output([[-0.2, 0.3, -0.1], [0.1, 0.2, 0.3]])
    loss = MarginLoss.over(units(), "uniform", "gate", 0.0, CPU)
    value = loss.finished(seen, loss.missing(seen) > 0)
    assert value[1].item() == 0
    (gradient,) = torch.autograd.grad(value.sum(), seen.margins)
    assert gradient.tolist() == [[0, -1, 0], [0, 0, 0]]


def test_a_strict_unit_at_its_threshold_is_still_missing():
    """Released hinge and decision rule disagree at exactly 0: the gate stays closed there, so the
    loss must go on.
    """
    strict = units(1)
    loose = dataclasses.replace(strict, strict=torch.zeros(1, dtype=torch.bool))
    for table, missing in ((strict, True), (loose, False)):
        seen = output([[0.0]])
        value = MarginLoss.over(table, "uniform", "gate", 0.0, CPU).missing(seen)
        assert (value.item() > 0) is missing
        assert bool(table.wanted(seen.margins.detach())) is not missing
        (gradient,) = torch.autograd.grad(value.sum(), seen.margins)
        assert gradient.item() == (-1.0 if missing else 0.0)


def test_a_logit_too_small_for_its_sigmoid_is_still_missing():
    """1e-9 is above 0, but its gate value is 0.5 exactly and the gate stays closed."""
    logit = torch.tensor([[1e-9]])
    seen = Output(torch.zeros(1, 2), logit.sigmoid() - 0.5, logit, torch.tensor([[False]]))
    assert not bool(units(1).wanted(seen.margins))
    assert MarginLoss.over(units(1), "uniform", "logit", 0.0, CPU).missing(seen).item() > 0


def test_offset_is_a_share_of_the_gates_range_or_logits():
    wide = dataclasses.replace(
        units(2),
        low=torch.tensor([0.0, 0.0]).double(),
        high=torch.tensor([2.0, torch.inf]).double(),
    )
    assert MarginLoss.over(wide, "uniform", "gate", 0.01, CPU).offset.tolist() == pytest.approx(
        [0.02, 0.01]
    )
    assert MarginLoss.over(wide, "uniform", "logit", 0.01, CPU).offset.tolist() == pytest.approx(
        [0.01, 0.01]
    )


def test_gate_and_logit_space_agree_on_what_is_missing():
    target = frozen(ConvGates())
    seen = target(pictures(16))
    gate = MarginLoss.over(target.units, "uniform", "gate", 0.0, CPU)
    logit = MarginLoss.over(target.units, "uniform", "logit", 0.0, CPU)
    assert torch.equal(gate.missing(seen) > 0, logit.missing(seen) > 0)
    assert bool((gate.missing(seen) > 0).any())


@pytest.mark.parametrize("name", ["pixels", "normalised", "none"])
def test_distance_gradient_is_the_derivative_of_its_value(name):
    clean, images = pictures(2, (3, 8, 8)), pictures(2, (3, 8, 8), seed=8).requires_grad_()
    apart = SquaredDistance.measured_in(name, (0.2, 0.3, 0.4), CPU)
    value = apart.value(images, clean)
    (expected,) = torch.autograd.grad(value.sum(), images)
    assert torch.allclose(apart.gradient(images.detach(), clean), expected, atol=1e-6)
    by_hand = {"pixels": 1.0, "none": torch.inf}.get(
        name, torch.tensor([0.2, 0.3, 0.4])[None, :, None, None]
    )
    assert torch.allclose(value, ((images - clean) / by_hand).square().sum((1, 2, 3)))
    assert (float(value.sum().detach()) > 0) is (name != "none")


def test_logit_shift_is_per_row():
    seen = Output(torch.tensor([[1.0, 2.0], [0.0, 0.0]]), *[torch.zeros(2, 1)] * 3)
    assert logit_shift(seen, torch.zeros(2, 2)).tolist() == [5.0, 0.0]


def test_the_ponder_loss_by_hand():
    """Position 0 stops before its second unit: two units missing, R = 1 - (scores so far) = margin
    of unit 0 + 0.01.
    """
    target = frozen(Halting())
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, :2, :2] = 1.0
    output = target(image)
    assert output.decisions.view(3, 4)[:, 0].tolist() == [True, False, False]
    scores = target.scores(image)[0]
    assert float(scores[0, 0] + scores[1, 0]) > 0.99
    missing = [2 + 1 - float(0.99 - scores[0, 0])]  # two units short; R up to a constant of 0.01
    for place in range(1, 4):
        runs = output.decisions.view(3, 4)[:, place]
        assert bool(runs.all()), "the dark positions run everything, and count for nothing"
    assert float(missing_ponder(output, target.units)) == pytest.approx(sum(missing) / 4)


def test_the_ponder_gradient_lowers_the_scores_before_the_stop():
    target = frozen(Halting())
    image = torch.full((1, 1, 4, 4), 0.9, requires_grad=True)
    loss = missing_ponder(target(image), target.units)
    (grad,) = torch.autograd.grad(loss.sum(), image)
    assert bool((grad > 0).all()), "scores grow with the image here, so descending darkens it"
    step = 1e-3
    nudged = [
        float(missing_ponder(target(image.detach() + sign * step), target.units))
        for sign in (1, -1)
    ]
    assert float(grad.sum()) == pytest.approx((nudged[0] - nudged[1]) / (2 * step), rel=1e-2)


def test_ilfo_ponders_where_something_halts_and_says_why_not_elsewhere():
    target = frozen(Halting())
    assert is_cumulative(target.units)
    for other in (Exits(), ConvGates()):
        assert not is_cumulative(other.units)
        assert "halting" in ILFO(loss="ponder").supports(frozen(other), NONE).reason
    images = (pictures(6, (1, 4, 4)) * 0.5 + 0.5).mul(255).round() / 255
    view, job = begin(target, images, 90)
    adversarial = ILFO(loss="ponder").perturb(view, images, torch.zeros(6, dtype=torch.int64), job)
    clean, won = (target.macs(target(x).decisions) for x in (images, adversarial))
    assert bool((won >= clean).all())
    assert int(won.sum()) > int(clean.sum())
