"""Cascades: which stages run and what they cost, resizing, calibration, and the contract."""

import pytest
import torch
import torch.nn.functional as F
from gated_networks import attacked, natural
from torch import nn

from bench.api import Moment, Part
from bench.errors import PlanError
from bench.evaluation import cost
from bench.testing import check_target, finite_difference, problems
from targets.cascade import Cascade
from targets.cascade.network import resized
from targets.recipes.cascade import CalibrateStage
from targets.recipes.threshold import choose_threshold
from targets.resnet import ResNet

TINY = "test_efficientnet"
"""The smallest convolutional classifier of timm; it takes any size."""


class Told(nn.Module):
    """A stage that says the logits it was told, whatever the image; it costs one linear layer."""

    def __init__(self, rows):
        super().__init__()
        self.rows = nn.Parameter(torch.tensor(rows))
        self.seen = []

    def forward(self, images):
        self.seen.append(tuple(images.shape))
        place = (images[:, 0, 0, 0] * 255).round().long()
        return self.rows[place]


def told(*stages, threshold, temperatures=(1.0, 1.0)):
    """A cascade of stages that say what they are told for image 0, 1, 2 …"""
    sizes = (16, 16, 32)[3 - len(stages) :]
    target = Cascade(
        networks=("resnet-8",) * len(stages), sizes=sizes, threshold=threshold, num_classes=2
    ).eval()
    target.networks = nn.ModuleList(Told(rows) for rows in stages)
    target.log_temperatures.data = torch.tensor(temperatures[: len(stages) - 1]).log()
    target._network = lambda stage: target.networks[stage]
    return target


def numbered(count, size=32):
    """Images that are their own number."""
    return (torch.arange(count) / 255.0).view(-1, 1, 1, 1).expand(-1, 3, size, size).contiguous()


def mixed(seed=0, **params):
    """A cascade with fresh weights of which half of the images leave at the first stage."""
    torch.manual_seed(seed)
    target = Cascade(**params).eval()
    images = natural(6, target.image_shape[1])
    with torch.no_grad():
        sure = target.all_stages(images)[:, 0].softmax(1).amax(1)
    target.set_threshold(float(sure.median()) + 1e-5)
    return target, images


# --- golden values, by hand


def test_who_answers_by_hand():
    """Confidences of stage 1: e^2/(1+e^2) = 0.8808, 1/2, 0.7311; of stage 2: 0.5, 0.9820, 0.6225."""
    first = [[2.0, 0.0], [0.0, 0.0], [0.0, 1.0]]
    second = [[0.0, 0.0], [4.0, 0.0], [0.5, 0.0]]
    last = [[0.0, 9.0], [0.0, 9.0], [0.0, 9.0]]
    target = told(first, second, last, threshold=0.8)
    output = target(numbered(3))
    assert output.decisions.tolist() == [[False, False], [True, False], [True, True]]
    assert output.logits.tolist() == [[2.0, 0.0], [4.0, 0.0], [0.0, 9.0]]
    margins = [[0.8 - 0.8808, 0.3], [0.3, 0.8 - 0.9820], [0.8 - 0.7311, 0.8 - 0.6225]]
    torch.testing.assert_close(output.margins, torch.tensor(margins), atol=1e-4, rtol=0)
    odds = torch.tensor(0.8 / 0.2).log()
    by_hand = torch.tensor([[2.0, 0.0], [0.0, 4.0], [1.0, 0.5]])
    torch.testing.assert_close(output.logit_margins, odds - by_hand)
    assert output.exits.shape == (3, 3, 2)


def test_a_temperature_makes_a_stage_less_sure_and_changes_no_answer():
    first, last = [[2.0, 0.0], [3.0, 0.0]], [[0.0, 9.0], [0.0, 9.0]]
    hot = told(first, last, threshold=0.8, temperatures=(2.0,))
    output = hot(numbered(2))
    assert output.decisions.tolist() == [[True], [False]], (
        "e/(1+e) = 0.731, e^1.5/(1+e^1.5) = 0.818"
    )
    torch.testing.assert_close(output.logits, torch.tensor([[0.0, 9.0], [1.5, 0.0]]))
    torch.testing.assert_close(output.margins[1, 0], torch.tensor(0.8 - 0.81757), atol=1e-4, rtol=0)


def test_a_stage_as_sure_as_the_threshold_answers():
    target = told([[0.0, 0.0]], [[0.0, 9.0]], threshold=0.5)
    output = target(numbered(1))
    assert output.margins.tolist() == [[0.0]]
    assert output.decisions.tolist() == [[False]]
    assert bool(target.units.strict.all())


def test_execute_runs_no_stage_behind_the_one_that_answers():
    first, second = [[2.0, 0.0], [0.0, 0.0]], [[9.0, 0.0], [9.0, 0.0]]
    target = told(first, second, [[0.0, 5.0], [0.0, 5.0]], threshold=0.8)
    for number, (ran, logits) in enumerate([(1, [2.0, 0.0]), (2, [9.0, 0.0])]):
        for stage in target.networks:
            stage.seen.clear()
        output = target.execute(numbered(2)[number : number + 1])
        assert [len(stage.seen) for stage in target.networks] == [1] * ran + [0] * (3 - ran)
        assert output.logits.tolist() == [logits]
        assert output.decisions.sum() == ran - 1
        assert output.margins[0, ran:].tolist() == pytest.approx([-0.2] * (2 - ran))
    assert target.networks[0].seen == [(1, 3, 16, 16)], "resized to what the stage takes"


def test_macs_by_hand():
    """One network shared by two sizes, and two networks; a stage that runs is paid in full."""
    small, large = ResNet(depth=20), ResNet(depth=38)
    target = Cascade()
    assert target.floor == small.ceiling
    assert target.ceiling == small.ceiling + large.ceiling
    assert target.units.cost.tolist() == [large.ceiling]
    shared = Cascade(networks=("resnet-20",), sizes=(16, 32))
    head = 64 * 10 + 10
    assert shared.floor == (small.ceiling - head) // 4 + head, "a quarter of the positions"
    assert shared.ceiling == shared.floor + small.ceiling
    three = Cascade(networks=("resnet-8",), sizes=(8, 16, 32))
    decisions = torch.tensor([[False, True], [True, False], [True, True]])
    costs = [three.floor, int(three.units.cost[0]), int(three.units.cost[1])]
    assert three.macs(decisions).tolist() == [costs[0], costs[0] + costs[1], sum(costs)]
    assert three.units.after.tolist() == [-1, 0]


# --- resizing


def test_a_resized_image_holds_weighted_means():
    images = natural(2, 32)
    assert resized(images, 32) is images
    flat = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(resized(flat, 20), torch.full((1, 3, 20, 20), 0.25))
    small = resized(images, 20)
    assert float(small.min()) >= float(images.min())
    assert float(small.max()) <= float(images.max())
    halves = resized(torch.tensor([[[[0.0, 0.0, 1.0, 1.0]] * 4]]), 2)
    torch.testing.assert_close(halves[0, 0, 0], torch.tensor([1 / 7, 6 / 7])), "triangles 1 3 3 1"


def test_gradients_pass_the_resizing():
    target, images = mixed(networks=("resnet-8",), sizes=(20, 32))
    target, image = target.double(), images[:1].double()
    inputs = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target(inputs).logit_margins.sum(), inputs)
    direction = gradient / gradient.norm()
    found = finite_difference(
        lambda x: target(x).logit_margins.sum(1).detach(), image, direction, step=1e-6
    )
    assert float(found) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


# --- the contract

ALONE = pytest.mark.slow  # networks of one kind, where two kinds are quick


@pytest.mark.parametrize(
    "params",
    [
        {"networks": ("resnet-8", "resnet-14")},
        pytest.param({"networks": ("resnet-8",), "sizes": (16, 24, 32)}, marks=ALONE),
        pytest.param({"networks": (TINY,), "sizes": (64, 96), "num_classes": 10}, marks=ALONE),
        {"networks": ("resnet-8", TINY), "sizes": (0, 64), "num_classes": 10},
    ],
    ids=["two-networks", "one-network-three-sizes", "timm-shared", "ours-and-timm"],
)
def test_contract(params):
    target, images = mixed(**params)
    assert not problems(check_target(target))
    assert len(set(target(images).decisions.sum(1).tolist())) > 1
    counted = cost.count(target, images[:1], torch.ones(1, len(target.units), dtype=torch.bool))
    assert counted.macs == target.ceiling


def test_an_attack_makes_images_go_on():
    target, images = mixed(networks=("resnet-8", "resnet-14"))
    clean, adversarial = attacked(target.requires_grad_(False), images[:4], budget=40)
    assert int(adversarial.sum()) > int(clean.sum())


def test_thresholds_follow_the_weights_unless_given():
    chosen = Cascade(networks=("resnet-8",), sizes=(16, 32))
    chosen.set_threshold(0.6)
    loaded = Cascade(networks=("resnet-8",), sizes=(16, 32))
    given = Cascade(networks=("resnet-8",), sizes=(16, 32), threshold=0.9)
    for target in (loaded, given):
        target.load_state_dict(chosen.state_dict())
    assert float(loaded.units.threshold[0]) == pytest.approx(0.4)
    assert float(given.units.threshold[0]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("params", "told_why"),
    [
        ({"sizes": (32,)}, "at least two stages"),
        ({"networks": ("resnet-8",) * 3}, "one for each of the 2 sizes"),
        ({"sizes": (0, -1)}, "pixels, or 0"),
        ({"networks": ("resnet-20", TINY)}, "different numbers of classes"),
        ({"networks": ("resnt18",)}, "did you mean resnet18"),
        ({"threshold": 1.0}, "above 0 and below 1"),
        (
            {"networks": ("vit_tiny_patch16_224",), "sizes": (64, 224)},
            "takes no images of 64 pixels",
        ),
    ],
    ids=["one-stage", "too-many", "negative", "classes", "unknown", "threshold", "fixed-size"],
)
def test_cascades_that_make_no_sense(params, told_why):
    with pytest.raises(PlanError, match=told_why):
        Cascade(**params)


# --- the recipe


def test_temperatures_are_learned_from_logits_alone():
    stage = CalibrateStage(
        networks=("resnet-8",), sizes=(16, 32), weights=("any",), epochs=1, lr=0.05
    )
    torch.manual_seed(0)
    target = stage.build(10).eval()
    images = natural(4)
    with torch.no_grad():
        raw = stage.features(target, images)
    assert raw.shape == (4, 20)
    with torch.no_grad():
        target.log_temperatures.copy_(torch.tensor([2.0]).log())
    assert target.temperatures.tolist() == pytest.approx([2.0, 1.0])
    torch.testing.assert_close(stage.features(target, images), raw, atol=1e-5, rtol=1e-4)
    loss, shown = stage.loss(target, raw, torch.arange(4), Moment(0.0, torch.Generator()))
    torch.testing.assert_close(loss, F.cross_entropy(raw[:, :10] / 2, torch.arange(4)))
    assert float(shown["temperature_1"]) == pytest.approx(2.0)
    loss.backward()
    assert target.log_temperatures.grad is not None
    assert [group["params"] for group in stage.groups(target)] == [[target.log_temperatures]]
    assert stage.borrowed() == {"networks.0.net.": "any"}


def test_names_and_settings_of_the_recipe():
    stage = CalibrateStage(networks=("tf_efficientnet_lite0",), sizes=(160, 224), weights=("a",))
    assert stage.weights_name("calibrate") == "cascade-tf-efficientnet-lite0-160-224"
    assert stage.twin_name() == "sdn-tf-efficientnet-lite0-static"
    with pytest.raises(PlanError, match="one name for each"):
        CalibrateStage()
    with pytest.raises(PlanError, match="held_out"):
        CalibrateStage(weights=("a", "b"), held_out=0.0)


def test_the_threshold_is_chosen_on_stages():
    class Whole:
        labels = torch.tensor([0, 1])

        def images(self, indices):
            return (numbered(2)[list(indices)] * 255).to(torch.uint8)

    right = told([[1.0, 0.0], [1.5, 0.0]], [[9.0, 0.0], [0.0, 9.0]], threshold=0.5)
    held = Part(Whole(), (0, 1))
    chosen = choose_threshold(right.all_stages, held, drop=0.0)
    assert chosen == 0.82, "the second is wrongly 0.8176 sure of class 0"
