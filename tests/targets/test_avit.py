"""A-ViT: halting by hand, costs as integers, and an answer that late work cannot reach."""

import pytest
import torch
from gated_networks import natural
from gated_tokens import halting

from bench.api import Moment
from bench.errors import PlanError
from bench.evaluation.cost import audit
from bench.testing import check_target, problems
from targets.avit import AViT
from targets.avit.halting import halt
from targets.recipes.avit import AViTRecipe, HaltingStage
from targets.vit import ViT

TOKENS, BLOCKS = 65, 5


def maps(values):
    """(N, L - 1, T) of (N, U)."""
    return values.view(len(values), BLOCKS, TOKENS)


def test_it_keeps_the_contract_of_targets():
    target = halting()
    opened = maps(target(natural(8)).decisions).double().mean((0, 2))
    assert bool((opened[2:] > 0.2).all())
    assert bool((opened[2:] < 0.8).all())
    assert not problems(check_target(target, natural(6)))


def test_it_keeps_the_contract_where_it_stops_with_its_class_token():
    assert not problems(check_target(halting(stop="class"), natural(6)))


def by_hand(scores, *, with_class=False):
    """Two tokens of one channel through four blocks that add 1 to whatever runs them; `scores` are
    those of the class token and of the other, behind blocks 1, 2 and 3."""
    table = torch.tensor(scores, dtype=torch.float64).T[:, None]

    return halt(
        torch.tensor([[[10.0], [20.0]]], dtype=torch.float64),
        4,
        0.99,
        lambda block, x, active: x + active[:, :, None],
        lambda block, x: (x, table[block]),
        lambda block, margins, active: active & (margins > 0),
        lambda mean: mean,
        with_class=with_class,
    )


def test_halting_by_hand():
    """The class token runs blocks 1 to 3: 0.3 x 11 + 0.4 x 12 + 0.3 x 13; the other one only 1."""
    run = by_hand([[0.3, 0.4, 0.5], [1.0, 0.9, 0.9]])
    assert run.logits.item() == pytest.approx(0.3 * 11 + 0.4 * 12 + 0.3 * 13)
    assert run.active[0].tolist() == [[True, False], [True, False], [False, False]]
    assert run.margins[0, :, 0].tolist() == pytest.approx([0.69, 0.29, -0.21])
    assert run.margins[0, :, 1].tolist() == pytest.approx([-0.01, -0.01, -0.01])
    assert run.remainder[0].tolist() == pytest.approx([0.3, 1.0])
    assert run.ponder().tolist() == pytest.approx([((3 + 0.3) + (1 + 1.0)) / 2])


def test_a_token_that_never_halts_spends_what_is_left_on_its_last_state():
    run = by_hand([[0.1, 0.2, 0.3], [0.0, 0.0, 0.0]])
    assert run.logits.item() == pytest.approx(0.1 * 11 + 0.2 * 12 + 0.3 * 13 + 0.4 * 14)
    assert bool(run.active.all())
    assert run.ponder().tolist() == pytest.approx([((4 + 0.4) + (4 + 1.0)) / 2])


def test_a_sum_of_exactly_the_limit_halts():
    run = by_hand([[0.99, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert run.margins[0, 0, 0] == 0
    assert not bool(run.active[0, 0, 0])


def test_where_the_class_token_halts_all_may_stop():
    run = by_hand([[0.5, 0.6, 0.0], [0.1, 0.1, 0.1]], with_class=True)
    assert run.active[0].tolist() == [[True, True], [False, False], [False, False]]
    assert run.margins[0, :, 1].tolist() == pytest.approx([0.49, -0.11, -0.11])


def test_costs_by_hand():
    """A block of n tokens of width D: linear layers 8 D^2 weights and 7 D biases, 2 n^2 D products
    of attention; the stem on 16x16 and 8x8 positions."""
    target, width = halting(), 32
    first = 16 * 16 * 16 * 27
    stem = first + 8 * 8 * 32 * (16 * 9) + 8 * 8 * (32 * 32 + 32)

    def block(n):
        return n * (8 * width * width + 7 * width) + 2 * n * n * width

    always = stem + block(65) + 10 * width + 10
    decisions = torch.zeros(3, BLOCKS, TOKENS, dtype=torch.bool)
    decisions[1, 0, :7] = True
    decisions[2] = True
    expected = [always, always + block(7), always + 5 * block(65)]
    assert target.macs(decisions.flatten(1)).tolist() == expected
    assert (target.floor, target.ceiling) == (expected[0], expected[2])
    for row in range(3):
        forced = decisions[row].flatten()[None]
        assert audit(target, natural(1), forced).macs == expected[row]
    assert ViT().macs(torch.zeros(1, 0, dtype=torch.bool)).tolist() == [target.ceiling]


def test_forcing_everything_is_the_transformer_whose_class_token_is_averaged():
    target, images = halting(), natural(4)
    every = torch.ones(4, len(target.units), dtype=torch.bool)
    x, mean, total = target.embed(images), 0, 0
    for block in range(6):
        x = target.net.blocks[block](x)
        score = torch.sigmoid(4 * x[:, :1, 0] - 3) if block < 5 else 1 - total
        mean, total = mean + score * x[:, 0], total + score
    expected = target.net.head(target.net.norm(mean))
    torch.testing.assert_close(target(images, every).logits, expected, rtol=1e-4, atol=1e-4)


def test_work_behind_the_answer_never_reaches_it():
    """Once the class token has halted, patch tokens may run on or not: the logits are the same."""
    target, images = halting(), natural(6)
    decisions = maps(target(images).decisions).clone()
    decisions[:, 3:, 0] = False
    less, more = decisions.clone(), decisions.clone()
    less[:, 3:, 1:] = False
    more[:, 3:, 1:] = more[:, 2:3, 1:]
    less, more = (target.units.admissible(each.flatten(1)) for each in (less, more))
    assert int(target.macs(more).sum()) > int(target.macs(less).sum())
    quiet, busy = (target(images, each).logits for each in (less, more))
    torch.testing.assert_close(quiet, busy, rtol=0, atol=0)


def test_what_halted_is_read_by_nobody():
    target, images = halting(), natural(3)
    run = target.walk(images)
    keep = run.active[:, 1]
    x = target.embed(images)
    noisy = torch.where(keep[:, :, None], x, torch.full_like(x, 7.0))
    one, other = (target.block(0, each, keep) for each in (x, noisy))
    torch.testing.assert_close(one[keep], other[keep], rtol=0, atol=1e-6)


def test_units_say_which_token_and_which_map():
    units = halting().units
    assert units.name[0] == "block2.class"
    assert units.name[65 + 9] == "block3.y1x0"
    assert units.kind.count("class token") == BLOCKS
    assert set(units.shape) == {(), (8, 8)}
    assert units.after[:65].tolist() == [-1] * 65
    assert int(units.after[70]) == 5
    assert int(units.cost[0]) == 8 * 32 * 32 + 7 * 32 + 2 * 65 * 32


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backbone": "vit-30x6"}, "did you mean vit-16x6 or vit-32x6"),
        ({"backbone": "vit-32x1"}, "needs two blocks"),
        ({"backbone": "vitt-32x6"}, "neither vit-WIDTHxDEPTH"),
        ({"backbone": "resnet18"}, "no VisionTransformer"),
        ({"backbone": "vit_small_patch16_224_nothing"}, "neither"),
        ({"backbone": "vit_medium_patch16_gap_240"}, "class token"),
        ({"gate_scale": 0.0}, "above 0"),
        ({"num_classes": 0}, "at least 1"),
    ],
    ids=["width", "depth", "typo", "convolutional", "unknown", "pooled", "scale", "classes"],
)
def test_what_it_cannot_be_is_refused(parameters, message):
    with pytest.raises(PlanError, match=message):
        AViT(**parameters)


def test_the_prior_by_hand():
    """Scores of patch tokens 0.2, 0.2, 0.4 behind three blocks are the shares 1/4, 1/4, 1/2."""
    stage = HaltingStage(halt_at=2.0)
    run = by_hand([[0.9, 0.9, 0.9], [0.2, 0.2, 0.4]])
    density = torch.tensor([-0.5, 0.0, -0.5]).exp()
    wanted = density / density.sum()
    found = torch.tensor([0.25, 0.25, 0.5])
    expected = float((wanted * (wanted / found).log()).sum())
    assert float(stage.distance(run)) == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_task_ponder_and_prior():
    target = halting().requires_grad_(True)
    images, labels = natural(8), torch.arange(8)
    stage = HaltingStage(ponder=0.5, prior=0.0)
    losses = [
        stage.loss(target, images, labels, Moment(done, torch.Generator()))[0]
        for done in (0.0, 0.125, 0.5)
    ]
    pondered = float(target.walk(images).ponder().mean().detach())
    assert float((losses[1] - losses[0]).detach()) == pytest.approx(0.25 * pondered, rel=1e-4)
    assert float((losses[2] - losses[0]).detach()) == pytest.approx(0.5 * pondered, rel=1e-4)
    losses[2].backward()
    assert all(
        value.grad is not None and bool(value.grad.isfinite().all())
        for value in target.parameters()
    )


def test_stages_start_from_the_plain_transformer():
    stage = AViTRecipe.stages["avit"]()
    assert stage.weights_name("static") == "vit-32x6-static"
    assert stage.weights_name("avit") == "avit-32x6-avit"
    assert set(stage.build(10).state_dict()) == set(ViT().state_dict())
    with pytest.raises(PlanError, match="ponder"):
        HaltingStage(ponder=-1.0)
