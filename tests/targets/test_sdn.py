"""SDN: where exits sit and what they cost, when they are taken, backbones that have none,
thresholds, and the contract."""

import pytest
import torch
import torch.nn.functional as F
from gated_networks import attacked, natural
from torch import nn

from bench.api import Moment, Part
from bench.errors import PlanError
from bench.evaluation import cost
from bench.evaluation.outputs import reached_units
from bench.testing import check_target, finite_difference, problems
from bench.weights import load_into
from targets.pieces.confidence import confidence, first_sure, log_odds
from targets.recipes.sdn import FrozenStage, JointStage, SDNRecipe
from targets.recipes.threshold import choose_threshold
from targets.resnet import ResNet
from targets.sdn import SDN
from targets.sdn.exits import InternalClassifier


def mixed(seed=0, **params):
    """A network with fresh weights whose images leave at several exits: about half of them at the
    first."""
    torch.manual_seed(seed)
    target = SDN(**params).eval()
    images = natural(8, target.image_shape[1])
    with torch.no_grad():
        first = target.all_exits(images)[:, 0]
    target.set_threshold(float(confidence(first).median()) + 1e-4)
    return target, images


# --- where exits sit, and what they cost


@pytest.mark.parametrize(
    ("backbone", "places"),
    [
        pytest.param("resnet-56", (3, 7, 11, 15, 19, 23), id="resnet-56"),
        pytest.param("vgg-16-bn", (1, 3, 5, 6, 8, 9), id="vgg-16-bn"),
        pytest.param("resnet-20", (0, 2, 3, 4, 6, 7), id="resnet-20"),
    ],
)
def test_six_exits_sit_where_the_authors_put_them(backbone, places):
    target = SDN(backbone=backbone)
    assert target.places == places
    if backbone == "resnet-20":
        shares = [
            float(target.macs((torch.arange(6) < k)[None])) / target.ceiling for k in range(6)
        ]
        assert shares == pytest.approx([0.15, 0.30, 0.45, 0.60, 0.75, 0.90], abs=0.06)


@pytest.mark.parametrize(
    ("backbone", "count"), [("resnet-56", 27), ("vgg-16-bn", 14), ("resnet-20", 9)]
)
def test_all_exits_are_one_behind_every_layer(backbone, count):
    assert len(SDN(backbone=backbone, exits="all").units) == count


def test_macs_of_an_exit_and_a_segment_by_hand():
    target = SDN(backbone="resnet-20", exits="all")
    head = 16 * 4 * 4 * 10 + 10
    stem, block = 3 * 9 * 16 * 1024, 2 * 16 * 16 * 9 * 1024
    assert target.floor == stem + block + head
    assert int(target.units.cost[0]) == block + head
    assert target.units.after.tolist() == [-1, 0, 1, 2, 3, 4, 5, 6, 7]
    narrow = SDN(backbone="vgg-16-bn", exits="all")
    assert int(narrow.units.cost[12]) == 512 * 512 + 512 + 512 * 10 + 10, (
        "the first linear layer and its classifier"
    )


def test_a_chain_counts_like_the_plain_network():
    assert SDN(exits="none").ceiling == ResNet(depth=20).ceiling
    vgg = SDN(backbone="vgg-16-bn", exits="none")
    counted = cost.count(vgg.eval(), natural(1), None)
    assert counted.macs == vgg.ceiling == vgg.floor


# --- the contract

LARGE = pytest.mark.slow  # the whole contract on deep networks and on a static one


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"exits": "all", "otherwise": "confident"},
        pytest.param({"exits": "none"}, marks=LARGE, id="none"),
        pytest.param({"backbone": "resnet-56"}, marks=LARGE, id="resnet-56"),
        pytest.param({"backbone": "vgg-16-bn"}, marks=LARGE, id="vgg-16-bn"),
        pytest.param({"backbone": "regnetx_002", "num_classes": 10}, marks=LARGE, id="regnetx_002"),
    ],
    ids=lambda params: "-".join(map(str, params.values())) or "six",
)
def test_contract(params):
    target, images = (
        mixed(**params) if params.get("exits") != "none" else (SDN(**params).eval(), natural(8))
    )
    assert not problems(check_target(target))
    if len(target.units):
        assert len(set(target(images).decisions.sum(1).tolist())) > 1


def test_execute_computes_nothing_behind_the_exit_that_is_taken():
    target, images = mixed()
    called = []
    for number, place in enumerate(target.backbone.net.places):
        layer = target.backbone.net.get_submodule(place.layer)
        layer.register_forward_hook(
            lambda module, inputs, output, number=number: called.append(number)
        )
    for image in images.split(1):
        called.clear()
        output = target.execute(image)
        taken = int(output.decisions.sum())
        last = (*target.places, len(target.backbone.taps) - 1)[taken]
        assert called == list(range(last + 1))
        assert output.exits.shape == (1, 7, 10)
        assert torch.equal(output.exits[0, taken], output.logits[0])
        assert output.margins[0, taken + 1 :].tolist() == pytest.approx(
            [float(target.threshold) - 1] * max(0, 5 - taken)
        )


def test_forced_all_on_is_the_plain_network():
    torch.manual_seed(0)
    plain, target = ResNet(depth=20).eval(), SDN().eval()
    state = {
        **target.state_dict(),
        **{f"backbone.net.{name}": value for name, value in plain.state_dict().items()},
    }
    load_into(target, state)
    everything = torch.ones(2, 6, dtype=torch.bool)
    torch.testing.assert_close(target(natural(2), everything).logits, plain(natural(2)).logits)
    torch.testing.assert_close(
        target.execute(natural(1), everything[:1]).logits, plain(natural(1)).logits
    )


def test_margins_of_exits_that_were_not_reached_are_nobodys_business():
    target, _ = mixed()
    decisions = torch.tensor([[True, True, False, False, False, False]])
    assert reached_units(target, decisions).tolist() == [[True, True, True, False, False, False]]


@pytest.mark.parametrize("which", ["margins", "logit_margins"])
def test_gradients_of_margins_are_right(which):
    target, images = mixed()
    target, images = target.double(), images[:1].double()
    inputs = images.clone().requires_grad_()
    weight = torch.arange(1.0, 7, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((getattr(target(inputs), which) * weight).sum(), inputs)
    direction = gradient / gradient.norm()
    found = finite_difference(
        lambda x: (getattr(target(x), which) * weight).sum(1).detach(), images, direction, step=1e-6
    )
    assert float(found) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


def test_an_attack_keeps_images_from_leaving():
    target, images = mixed()
    clean, adversarial = attacked(target.requires_grad_(False), images[:4], budget=60)
    assert int(adversarial.sum()) > int(clean.sum())


# --- when an exit is taken


def test_an_exit_as_sure_as_the_threshold_is_taken():
    target = SDN(threshold=0.5, num_classes=2)
    logits = torch.zeros(1, 6, 2)  # confidence exactly 1/2 everywhere
    assert target.margins(logits).tolist() == [[0.0] * 6]
    assert not bool(target.units.wanted(target.margins(logits)).any())
    assert target.logit_margins(logits).tolist() == [[0.0] * 6]
    assert float(target.units.high[0]) == 0.5
    assert bool(target.units.strict.all())


def test_log_odds_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 5.0, 4.0]])
    p = logits.softmax(1).amax(1)
    torch.testing.assert_close(log_odds(logits), (p / (1 - p)).log())
    assert float(log_odds(torch.tensor([[100.0, 0.0]]))) == 100.0, "where softmax is 1 already"


def test_the_first_sure_exit_decides():
    sure = torch.tensor([[False, True, True], [False, False, False], [True, False, False]])
    assert first_sure(sure).tolist() == [1, 3, 0]


def test_what_an_image_gets_that_no_exit_takes():
    params = {"threshold": 0.999}
    torch.manual_seed(0)
    final = SDN(**params).eval()
    surest = SDN(**params, otherwise="confident").eval()
    load_into(surest, final.state_dict())
    images = natural(6)
    one, other = final(images), surest(images)
    assert bool(one.decisions.all())
    assert torch.equal(one.logits, one.exits[:, -1])
    best = confidence(one.exits).argmax(1)
    assert torch.equal(other.logits, one.exits[torch.arange(6), best])
    assert bool((best != 6).any())
    assert torch.equal(final.macs(one.decisions), surest.macs(other.decisions))
    torch.testing.assert_close(surest.execute(images[:1]).logits, other.logits[:1])


def test_internal_classifiers_by_hand():
    torch.manual_seed(0)
    head, x = InternalClassifier((3, 8, 8), 5), torch.randn(2, 3, 8, 8)
    windows = x.view(2, 3, 4, 2, 4, 2)
    mixed_pool = head.alpha * windows.amax((3, 5)) + (1 - head.alpha) * windows.mean((3, 5))
    torch.testing.assert_close(
        head(x), F.linear(mixed_pool.flatten(1), head.linear.weight, head.linear.bias)
    )
    assert InternalClassifier((3, 2, 2), 5).linear.in_features == 12, "small maps as they are"
    assert InternalClassifier((512, 1, 1), 10).linear.in_features == 512


# --- thresholds


def test_thresholds_follow_the_weights_unless_given():
    chosen = SDN()
    chosen.set_threshold(0.6)
    loaded, given = SDN(), SDN(threshold=0.9)
    for target in (loaded, given):
        load_into(target, chosen.state_dict())
    assert float(loaded.units.threshold[0]) == pytest.approx(0.4)
    assert float(loaded.threshold) == 0.6
    assert float(given.units.threshold[0]) == pytest.approx(0.1)
    assert float(given.threshold) == 0.9


@pytest.mark.parametrize("wrong", [0.0, 1.0, 1.5, -0.1, float("nan")])
def test_thresholds_that_make_no_sense(wrong):
    with pytest.raises(PlanError, match="threshold"):
        SDN(threshold=wrong)


# --- backbones


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        ("resnt18", "did you mean resnet18"),
        ("vgg-16", "vgg-16-bn"),
        ("resnet-21", "did you mean 20 or 26"),
        ("xcit_nano_12_p16_224", "no map of"),
        ("vit_small_patch16_36x1_224_x", "neither resnet-DEPTH"),
        ("swin_tiny_patch4_window7_224", "no map of"),
    ],
)
def test_backbones_without_usable_features(backbone, told):
    with pytest.raises(PlanError, match=told):
        SDN(backbone=backbone)


def test_a_timm_network_is_left_as_it_was():
    target = SDN(backbone="mobilenetv2_050", num_classes=10, threshold=0.11).eval()
    assert target.image_shape == (3, 224, 224)
    image = natural(1, 224)
    first = target.execute(image)
    assert not bool(first.decisions[0, -1])
    assert not any(module._forward_hooks for module in target.modules())

    class Trouble(nn.Module):
        def forward(self, x):
            raise ValueError("in the middle")

    target.heads[0] = Trouble()
    with pytest.raises(ValueError, match="in the middle"):
        target.execute(image)
    assert not any(module._forward_hooks for module in target.modules())


def test_a_chain_refuses_other_sizes():
    target = SDN(backbone="resnet-20").eval()
    with pytest.raises((RuntimeError, ValueError)):
        target(natural(1, 40))


# --- the recipe


def test_stages():
    names = [stage().weights_name(name) for name, stage in SDNRecipe.stages.items()]
    assert names == ["resnet-20-static", "sdn-resnet-20-ic-only", "sdn-resnet-20-joint"]
    static = SDNRecipe.stages["static"]
    assert static().target_name == "resnet"
    assert static(backbone="vgg-16-bn").weights_name("static") == "sdn-vgg-16-bn-static"
    assert len(static(backbone="vgg-16-bn").build(10).units) == 0
    assert (
        JointStage(backbone="vgg-16-bn", exits="all").weights_name("joint")
        == "sdn-vgg-16-bn-all-joint"
    )
    assert JointStage().twin_name() == "resnet-20-static"
    with pytest.raises(PlanError, match="held_out"):
        JointStage(held_out=0.0)


def test_weights_of_exits_rise_to_their_share_of_the_cost():
    stage, target = JointStage(), SDN()
    assert stage.weights(target, 0.0).tolist() == pytest.approx([0.01] * 6)
    end = stage.weights(target, 1.0).tolist()
    assert end == pytest.approx([0.15, 0.3, 0.45, 0.6, 0.75, 0.9], abs=0.06)
    assert stage.weights(target, 0.5).tolist() == pytest.approx(
        [0.01 + (w - 0.01) / 2 for w in end]
    )


def test_a_frozen_backbone_stays_as_it_is():
    stage = FrozenStage()
    torch.manual_seed(0)
    plain, target = ResNet(depth=20), stage.build(10)
    adopted = stage.adopt(plain.state_dict())
    assert set(adopted) <= set(target.state_dict())
    stage.begin_epoch(target, ())
    before = {name: value.clone() for name, value in target.backbone.state_dict().items()}
    optimiser = torch.optim.SGD(stage.groups(target), lr=0.1)
    loss, _ = stage.loss(target, natural(4), torch.arange(4), Moment(0.0, torch.Generator()))
    loss.backward()
    optimiser.step()
    assert all(
        torch.equal(value, before[name]) for name, value in target.backbone.state_dict().items()
    )
    assert all(float(head.linear.weight.grad.abs().sum()) > 0 for head in target.heads)


def test_exits_from_what_was_pooled_once_are_the_exits():
    """Pooled maps of 32, 16 and 8 pixels, and a small map that is taken as it is."""
    torch.manual_seed(0)
    for target in (SDN(), SDN(backbone="vgg-16-bn", exits="all")):
        images = natural(2)
        with torch.no_grad():
            pooled = target.eval().pooled(images)
            torch.testing.assert_close(target.exits_from_pooled(pooled), target.all_exits(images))


def test_a_stage_with_cached_features_trains_the_same_exits():
    stage, labels = FrozenStage(cache=True), torch.arange(4)
    target = stage.build(10)
    stage.begin_epoch(target, ())
    images = natural(4)
    features = stage.features(target, images).detach()
    assert FrozenStage().features(target, images) is None
    moment = Moment(0.0, torch.Generator())
    cached, shown = stage.loss(target, features, labels, moment)
    anew, expected = FrozenStage().loss(target, images, labels, moment)
    torch.testing.assert_close(cached, anew)
    assert shown.keys() == expected.keys()
    cached.backward()
    assert all(float(head.linear.weight.grad.abs().sum()) > 0 for head in target.heads)


def test_the_threshold_is_the_smallest_that_costs_little():
    """Two exits; four images.

    The first exit is 0.55 sure and wrong on image 0, 0.65 and 0.75 and 0.85 sure and right on
    others.
    """

    class Whole:
        labels = torch.zeros(4, dtype=torch.int64)

        def images(self, indices):
            return torch.tensor(list(indices)).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).to(torch.uint8)

    class Told:
        def all_exits(self, images):
            rows = (images[:, 0, 0, 0] * 255).round().long()
            p = torch.tensor([0.45, 0.65, 0.75, 0.85])[rows]
            early = torch.stack([p, 1 - p], 1).log()
            return torch.stack([early, torch.tensor([[9.0, 0.0]]).expand(len(rows), 2)], 1)

    held = Part(Whole(), (0, 1, 2, 3))
    assert choose_threshold(Told().all_exits, held, drop=0.0) == 0.56, (
        "the first of the grid that the wrong 0.55 does not reach"
    )
    assert choose_threshold(Told().all_exits, held, drop=0.25) == 0.2


# --- transformers


def test_exits_of_a_transformer_keep_the_contract():
    torch.manual_seed(2)
    target = SDN(backbone="vit-16x4-p8", exits="all").eval()
    with torch.no_grad():
        sure = confidence(target.all_exits(natural(12))[:, :-1])
    target.set_threshold(float(sure.median()) + 1e-4)
    assert [tap.shape for tap in target.backbone.taps] == [(16, 1, 1)] * 3
    runs = target(natural(12)).decisions
    assert 0 < runs.double().mean() < 1
    assert not problems(check_target(target, natural(6)))


def test_an_exit_reads_the_normalized_class_token():
    torch.manual_seed(2)
    target = SDN(backbone="vit-16x4-p8", exits="all").eval()
    images, net = natural(3), target.backbone.net
    x = net.embed(images)
    for place in range(3):
        x = net.net.blocks[place](x)
        token = x[:, 0]
        centred = token - token.mean(1, keepdim=True)
        token = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        expected = target.heads[place].linear(token)
        torch.testing.assert_close(target.all_exits(images)[:, place], expected)
    plain = net(images).logits
    torch.testing.assert_close(target.all_exits(images)[:, 3], plain)


def test_recipes_of_exits_start_from_the_plain_transformer():
    stage = SDNRecipe.stages["ic-only"](backbone="vit-16x4-p8", exits="all")
    assert stage.weights_name("static") == "vit-16x4-p8-static"
    assert stage.weights_name("ic-only") == "sdn-vit-16x4-p8-all-ic-only"
    plain = SDNRecipe.stages["static"](backbone="vit-16x4-p8")
    assert plain.target_name == "vit"
    assert plain.target_params() == {"backbone": "vit-16x4-p8"}
    renamed = stage.adopt(plain.build(10).state_dict())
    assert set(renamed) <= set(stage.build(10).state_dict())
