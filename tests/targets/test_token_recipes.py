"""How networks of tokens are trained: from a teacher, in half precision, under a share of tokens."""

import pytest
import torch
import torch.nn.functional as F
from gated_networks import natural
from gated_tokens import dropping

from bench.api import Moment
from bench.datasets.base import open_dataset
from bench.errors import PlanError, UnknownName, WeightsError
from bench.training.inputs import find_teacher
from bench.training.loop import train
from bench.training.settings import Training
from bench.weights import add_entry, halved, load_into, read_state
from targets.recipes.avit import AViTRecipe
from targets.recipes.distillation import round_to_half
from targets.recipes.dynamicvit import DynamicViTRecipe, KeepingStage
from targets.recipes.vit import PlainTransformerStage, ViTRecipe
from targets.vit import ViT

SMALL = "vit-16x4-p8"


class Few:
    """The first 64 training images of digits-m."""

    def __init__(self):
        whole = open_dataset("digits-m:train")
        self.flip_allowed, self.classes = whole.flip_allowed, whole.classes
        self.labels, self.whole = whole.labels[:64], whole

    def __len__(self):
        return 64

    def images(self, rows):
        return self.whole.images(rows)


def test_the_task_is_labels_and_the_teachers_word():
    torch.manual_seed(0)
    student, teacher = ViT(backbone=SMALL), ViT(backbone=SMALL).eval()
    images, labels = natural(6), torch.arange(6)
    logits = student.eval()(images).logits.detach()
    stage = PlainTransformerStage(distilled=0.3, temperature=2.0)
    found = stage.task_loss(logits, images, labels, Moment(0.0, torch.Generator(), (), teacher))
    taught = (teacher(images).logits.detach() / 2).softmax(1)
    mine = (logits / 2).softmax(1)
    apart = (taught * (taught / mine).log()).sum(1).mean()
    expected = 0.7 * F.cross_entropy(logits, labels) + 0.3 * 4 * apart
    torch.testing.assert_close(found, expected)
    alone = stage.task_loss(logits, images, labels, Moment(0.0, torch.Generator()))
    torch.testing.assert_close(alone, F.cross_entropy(logits, labels))


class Classes:
    """A data set of so many classes."""

    def __init__(self, count):
        self.classes = tuple(map(str, range(count)))


def test_a_teacher_is_found_by_name_and_refused_with_other_classes(tmp_path):
    network = ViT(backbone=SMALL, num_classes=7)
    add_entry(
        tmp_path,
        "seven",
        network.state_dict(),
        {"target": "vit", "params": {"backbone": SMALL, "num_classes": 7}},
    )
    assert find_teacher(PlainTransformerStage(), Classes(10), tmp_path) == (None, None)
    entry, taught = find_teacher(PlainTransformerStage(teacher="seven"), Classes(7), tmp_path)
    assert entry.name == "seven"
    torch.testing.assert_close(taught.state_dict(), network.state_dict())
    with pytest.raises(WeightsError, match="7 classes apart"):
        find_teacher(PlainTransformerStage(teacher="seven"), Classes(10), tmp_path)
    with pytest.raises(UnknownName):
        find_teacher(PlainTransformerStage(teacher="sevn"), Classes(10), tmp_path)


def test_half_precision_loses_nothing_twice(tmp_path):
    network = ViT(backbone=SMALL)
    exact = {name: value.clone() for name, value in network.state_dict().items()}
    kept = halved(exact)
    assert any(value.dtype == torch.float32 for value in kept.values()), "what would lose stays"
    for name, value in kept.items():
        assert torch.equal(value.to(exact[name].dtype), exact[name])
    round_to_half(network)
    rounded = network.state_dict()
    entry = add_entry(tmp_path, "half", halved(rounded), {"target": "vit"})
    whole = add_entry(tmp_path, "whole", rounded, {"target": "vit"})
    assert entry.bytes < 0.65 * whole.bytes
    other = ViT(backbone=SMALL)
    load_into(other, read_state(entry))
    for name, value in other.state_dict().items():
        assert torch.equal(value, rounded[name])
        assert value.dtype == rounded[name].dtype


def test_a_training_learns_from_its_teacher_and_ends_rounded(tmp_path):
    """Two epochs on 64 images: the student moves towards what the teacher says of them."""
    torch.manual_seed(5)
    teacher, data = ViT(backbone=SMALL), Few()
    stage = PlainTransformerStage(
        backbone=SMALL, epochs=8, batch=16, distilled=1.0, lr=3e-3, teacher="t"
    )
    plan = Training("vit", "static", stage, "digits-m")
    done = train(plan, data, tmp_path / "c.pt", teacher=teacher, device=torch.device("cpu"))
    losses = [epoch["loss"] for epoch in done.history]
    assert losses[-1] < 0.7 * losses[0]
    for value in done.target.state_dict().values():
        if value.is_floating_point():
            assert torch.equal(value, value.half().float())


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        (AViTRecipe.stages["avit"], "avit-16x4-p8-avit"),
        (DynamicViTRecipe.stages["dynamic"], "dynamicvit-16x4-p8-dynamic"),
        (DynamicViTRecipe.stages["fixed"], "fixed-tokens-16x4-p8-fixed"),
    ],
    ids=["avit", "dynamic", "fixed"],
)
def test_every_stage_trains_from_the_static_network(stage, name, tmp_path):
    torch.manual_seed(1)
    start = {key: value.half() for key, value in ViT(backbone=SMALL).state_dict().items()}
    made = stage(backbone=SMALL, epochs=1, batch=32)
    assert made.weights_name(name.rpartition("-")[2]) == name
    plan = Training("r", "s", made, "digits-m")
    done = train(plan, Few(), tmp_path / "c.pt", start=start, device=torch.device("cpu"))
    assert torch.isfinite(torch.tensor(done.history[0]["loss"]))
    moved = [
        key
        for key, value in done.target.state_dict().items()
        if key in start and value.is_floating_point() and not torch.equal(value, start[key].float())
    ]
    assert any("blocks.0.attn.qkv.weight" in key for key in moved)


def test_the_share_of_tokens_by_hand():
    target = dropping().requires_grad_(True)
    images, labels = natural(8), torch.arange(8)
    stage = KeepingStage(ratio=0.6, penalty=5.0)
    losses = [
        stage.loss(target, images, labels, Moment(done, torch.Generator()))[0]
        for done in (0.0, 0.25)
    ]
    kept = target(images).decisions.view(8, 3, 64).double().mean((0, 2)).tolist()
    expected = 5 * sum((0.6 ** (s + 1) - kept[s]) ** 2 for s in range(3)) / 3
    assert float((losses[1] - losses[0]).detach()) == pytest.approx(expected, rel=1e-3)
    losses[1].backward()
    weight = target.score_predictor[2].out_conv[4].weight
    assert bool((weight.grad != 0).any())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distilled": 1.5}, "share"),
        ({"temperature": 0.0}, "above 0"),
        ({"epochs": 0}, "above 0"),
    ],
    ids=["share", "temperature", "epochs"],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(PlanError, match=message):
        ViTRecipe.stages["static"](**settings)
