"""Checkpoints in the authors' layout give the same network here: logits, gate values, decisions and
gradients."""

import pytest
import torch
from original_skipnet import Original, checkpoint, randomise

from bench.errors import WeightsError
from targets.aig import AIG
from targets.dynconv import DynConv
from targets.sact import SACT
from targets.skipnet import SkipNet
from targets.skipnet.official import recognise

CIFAR = {"cifar-20": (20, (3, 3, 3)), "cifar-38": (38, (6, 6, 6))}
SLOW = pytest.mark.slow  # 50 layers at 224 pixels
DEEP = pytest.mark.slow  # the same on a deeper network
AGAIN = pytest.mark.slow  # the same rule as on CIFAR, at 224 pixels
FORMS = [
    *[
        pytest.param(
            *("cifar", depth, counts, gate, form, False),
            id=f"cifar-{depth}-{gate}-{form}",
            marks=DEEP if depth == 38 else (),
        )
        for depth, counts in CIFAR.values()
        for gate in ("rnn", "ff1", "ff2")
        for form in ("sp", "hrl")
    ],
    pytest.param("imagenet", 18, (2, 2, 2, 2), "rnn", "sp", False, id="imagenet-18-rnn-sp"),
    pytest.param(
        *("imagenet", 18, (2, 2, 2, 2), "rnn", "hrl", False), id="imagenet-18-rnn-hrl", marks=AGAIN
    ),
    pytest.param(
        "imagenet", 50, (3, 4, 6, 3), "rnn", "sp", True, id="imagenet-50-rnn-sp", marks=SLOW
    ),
]


def pair(family, depth, counts, gate, form, deep):
    original = randomise(Original(family, counts, gate, form, deep), seed=2)
    ours = SkipNet(depth=depth, gate=gate, form=form, layout=family).eval()
    ours.load_state_dict(SkipNet.from_official(checkpoint(original)))
    return original.double(), ours.double()


@pytest.mark.parametrize(("family", "depth", "counts", "gate", "form", "deep"), FORMS)
def test_same_logits_gates_decisions_and_gradients(family, depth, counts, gate, form, deep):
    original, ours = pair(family, depth, counts, gate, form, deep)
    count = 6 if family == "cifar" else 1
    images = torch.rand(
        (count, *ours.image_shape), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).requires_grad_()
    logits, values, masks = original((images - ours.mean) / ours.std)
    output = ours(images)
    torch.testing.assert_close(output.logits, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        output.margins + 0.5, values[:, : len(ours.units)], rtol=1e-9, atol=1e-9
    )
    torch.testing.assert_close(output.logit_margins.sigmoid(), output.margins + 0.5)
    assert torch.equal(output.decisions, masks > 0.5)
    assert 0 < output.decisions.double().mean() < 1, "the comparison says little if all gates agree"

    weight = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view_as(logits)
    (theirs,) = torch.autograd.grad(
        (logits * weight).sum() + values[:, : len(ours.units)].sum(), images
    )
    (mine,) = torch.autograd.grad((output.logits * weight).sum() + output.margins.sum(), images)
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("gate", ["rnn", "ff1", "ff2"])
def test_float32_agrees_to_1e_5(gate):
    original, ours = (net.float() for net in pair("cifar", 20, (3, 3, 3), gate, "sp", False))
    images = torch.rand((16, 3, 32, 32), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits, values, masks = original((images - ours.mean) / ours.std)
        output = ours(images)
    assert torch.equal(output.decisions, masks > 0.5)
    torch.testing.assert_close(output.logits, logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.margins + 0.5, values[:, :-1], rtol=1e-5, atol=1e-5)


def test_the_last_gate_is_kept_but_changes_nothing():
    original, ours = pair("cifar", 20, (3, 3, 3), "rnn", "sp", False)
    assert torch.equal(ours.get_submodule("group3_gate2.1").weight, original.group3_gate2[1].weight)
    images = torch.rand((2, 3, 32, 32), dtype=torch.float64)
    before = ours(images)
    with torch.no_grad():
        ours.get_submodule("group3_gate2.1").weight.fill_(float("nan"))
    after = ours(images)
    assert torch.equal(before.logits, after.logits)
    assert torch.equal(before.margins, after.margins)


@pytest.mark.parametrize("change", ["bare", "no_prefix", "copy_only", "with_counters"])
def test_variants_of_the_layout(change):
    original = randomise(Original("cifar", (3, 3, 3), "rnn", "sp"))
    wrapped = checkpoint(original)
    state = dict(wrapped["state_dict"])
    if change == "no_prefix":
        state = {name.removeprefix("module."): value for name, value in state.items()}
    if (
        change == "copy_only"
    ):  # only the copy inside the block, as a hand-made checkpoint may have it
        state = {name: value for name, value in state.items() if "_ds0." not in name}
    if change == "with_counters":
        state = dict(original.state_dict())
    ours = SkipNet.from_official(state)
    assert torch.equal(ours["group2_ds0.0.weight"], original.group2_ds0[0].weight)
    assert not any("downsample" in name for name in ours)
    SkipNet().load_state_dict(ours, strict=True)


def test_every_problem_is_listed_at_once():
    state = dict(checkpoint(randomise(Original("cifar", (3, 3, 3), "rnn", "sp")))["state_dict"])
    del state["module.conv1.weight"]
    del state["module.control.rnn.bias_hh_l0"]
    state["module.fc.bias"] = torch.zeros(7)
    state["module.stowaway"] = torch.zeros(1)
    state["module.group2_layer0.downsample.0.weight"] = (
        state["module.group2_layer0.downsample.0.weight"] + 1
    )
    with pytest.raises(WeightsError) as error:
        SkipNet.from_official(state)
    message = str(error.value)
    for part in [
        "missing: conv1.weight [16, 3, 3, 3]",
        "missing: control.rnn.bias_hh_l0 [40]",
        "misshapen: fc.bias is [7], expected [10]",
        "unexpected: stowaway [1]",
        "contradictory: group2_layer0.downsample.0.weight",
    ]:
        assert part in message
    assert "num_batches_tracked" not in message


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        pytest.param({}, "no SkipNet checkpoint", id="empty"),
        pytest.param(
            {"layer1.0.conv1.weight": torch.zeros(1)}, "layer1.0.conv1.weight", id="other-shape"
        ),
        pytest.param({"state_dict": 5}, "holds a int", id="no-state"),
        pytest.param({"fc.weight": "text"}, "not a tensor: fc.weight (str)", id="no-tensor"),
    ],
)
def test_other_things_are_refused(state, expected):
    with pytest.raises(WeightsError) as error:
        SkipNet.from_official(state)
    assert expected in str(error.value)


LAYER, UNIT = torch.zeros(10, 64), torch.zeros(3, 3, 16, 16)
UNITS = {
    f"{scope}block_{block}/unit_1/residual/conv1/weights": UNIT
    for scope in ("", "ema/")
    for block in (1, 2, 3)
}
TWICE = {
    "prefix": (SkipNet, {"module.fc.bias": torch.ones(10), "fc.bias": torch.zeros(10)}),
    "aig": (
        AIG,
        {
            "layer1.0.conv1.weight": torch.ones(1),
            "group1_layer0.conv1.weight": torch.zeros(1),
            "linear.weight": LAYER,
        },
    ),
    "dynconv": (
        DynConv,
        {
            "layer1.0.conv1.weight": torch.ones(1),
            "group1_layer0.conv1.weight": torch.zeros(1),
            "fc.weight": LAYER,
        },
    ),
    "head": (
        AIG,
        {
            "layer1.0.conv1.weight": torch.ones(1),
            "linear.weight": LAYER,
            "fc.weight": LAYER + 1,
        },
    ),
    "scopes": (
        SACT,
        {
            **UNITS,
            "ema/block_1/unit_1/residual/conv1/weights": UNIT + 1,
            "logits/biases": torch.zeros(10),
        },
    ),
    "outputs": (SACT, {"logits/biases": torch.zeros(10), "logits/biases:0": torch.ones(10)}),
}


@pytest.mark.parametrize(("kind", "state"), TWICE.values(), ids=TWICE)
def test_two_networks_in_one_file_are_not_mixed(kind, state):
    """The last of two tensors won without a word."""
    with pytest.raises(WeightsError, match="more than one network\n  contradictory: "):
        kind.from_official(state)


def test_a_lost_block_is_named():
    state = checkpoint(randomise(Original("cifar", (6, 6, 6), "ff1", "sp")))["state_dict"]
    state = {name: value for name, value in state.items() if "group3_layer5" not in name}
    with pytest.raises(WeightsError, match=r"missing: group3_layer5.conv1.weight \[64, 64, 3, 3\]"):
        SkipNet.from_official(state)


@pytest.mark.parametrize(
    ("family", "counts", "gate", "deep", "classes", "expected"),
    [
        pytest.param(
            "cifar",
            (18, 18, 18),
            "ff2",
            False,
            100,
            {"depth": 110, "gate": "ff2", "layout": "cifar", "num_classes": 100},
            id="cifar-110",
        ),
        pytest.param(
            "imagenet",
            (3, 4, 6, 3),
            "rnn",
            False,
            1000,
            {"depth": 34, "gate": "rnn", "layout": "imagenet", "num_classes": 1000},
            id="imagenet-34",
        ),
        pytest.param(
            "imagenet",
            (3, 4, 6, 3),
            "rnn",
            True,
            1000,
            {"depth": 50, "gate": "rnn", "layout": "imagenet", "num_classes": 1000},
            id="imagenet-50",
        ),
        pytest.param(
            "imagenet",
            (3, 8, 36, 3),
            "rnn",
            True,
            7,
            {"depth": 152, "gate": "rnn", "layout": "imagenet", "num_classes": 7},
            id="imagenet-152",
        ),
    ],
)
def test_the_network_is_recognised(family, counts, gate, deep, classes, expected):
    with torch.device("meta"):
        state = Original(family, counts, gate, "sp", deep, classes).state_dict()
    assert recognise(state) == expected
