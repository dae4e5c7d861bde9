"""SACT and ACT: published costs, the authors' network as an oracle, halting by hand, and the
contract."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from original_sact import OriginalSACT, variables
from torch.utils.flop_counter import FlopCounterMode as SecondCounter

from bench.api import Moment
from bench.cli import cli
from bench.errors import PlanError, WeightsError
from bench.evaluation import cost
from bench.testing import check_target, finite_difference, problems, random_decisions
from bench.weights.checkpoint import read_checkpoint
from targets.pieces.positions import Positions, dilate, multiply
from targets.recipes.sact import SACTRecipe
from targets.sact import SACT
from targets.sact.blocks import BasicUnit, form_for, standardize
from targets.sact.halting import HaltingRun, HaltingScore, halt
from targets.sact.network import _residual_whole


def lively(seed=0, **params):
    """A network of which about half halts."""
    torch.manual_seed(seed)
    target = SACT(**params)
    with torch.no_grad():
        for module in target.modules():
            if isinstance(module, HaltingScore):
                for conv in (module.global_conv, module.local_conv):
                    if conv is not None:
                        conv.weight.mul_(40)
                module.bias.fill_(1.0)
    return target.eval()


def pictures(count=2, size=32, seed=1):
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(size, size), mode="bilinear").double()


def imported(made, **params):
    target = SACT(**params).double()
    target.load_state_dict(SACT.from_official(made))
    return target.eval()


def convolutions_only(target, decisions):
    """FLOPs (two a MAC) of the convolutions of `execute`, biases left out."""
    counter = SecondCounter(display=False)
    with torch.no_grad(), counter:
        target.execute(torch.rand(1, *target.image_shape), decisions)
    return counter.get_total_flops() - 2 * target.fc.weight.numel()


# --- published numbers


def test_published_flops_of_the_cifar_network():
    target = SACT(depth=32).eval()
    assert len(target.units) == 4 * (32**2 + 16**2 + 8**2) == 5376
    assert target.ceiling == 70_060_362
    off, on = target.extremes()
    # the logits are one of the published convolutions
    assert convolutions_only(target, on) + 2 * 640 == pytest.approx(139.79e6, abs=5e3)
    assert convolutions_only(target, off) + 2 * 640 == pytest.approx(25.0e6, abs=5e4)
    plain = SACT(depth=32, halting="none").eval()
    assert convolutions_only(plain, plain.extremes()[1]) + 2 * 640 == pytest.approx(
        137.73e6, abs=5e3
    )


@pytest.mark.parametrize(("halting", "published"), [("none", 15.60e9), ("sact", 15.74e9)])
def test_published_flops_of_the_imagenet_network(halting, published):
    with torch.device("meta"):
        target = SACT(depth=101, layout="imagenet", halting=halting)
    assert 2 * target.ceiling == pytest.approx(published, rel=2e-3)  # biases and all
    assert len(target.units) == (13_034 if halting == "sact" else 0)


# --- the authors' network


@pytest.mark.parametrize("units", [1, 2, 4])
def test_imported_variables_compute_what_the_original_computes(units):
    made = variables(units)
    made |= {
        "global_step": torch.tensor(3.0),
        "resnet_residual/Conv/weights/Momentum": torch.zeros(3, 3, 3, 16),
    }
    target = imported(made, depth=6 * units + 2, halting="sact" if units > 1 else "none")
    images = pictures(3)
    with torch.no_grad():
        logits, maps, ponders = OriginalSACT(made)(images)
        found = target(images)
        _, runs = target.walk(images)
    torch.testing.assert_close(found.logits, logits, rtol=1e-9, atol=1e-9)
    if units > 1:
        ran = torch.cat([one.flatten(1) for block in maps for one in block], 1)
        assert torch.equal(found.decisions, ran)
        assert 0.05 < float(ran.double().mean()) < 0.95
        for run, ponder in zip(runs, ponders, strict=True):
            torch.testing.assert_close(run.ponder(), ponder.flatten(1).mean(1))


def test_forced_all_on_is_the_network_that_never_halts():
    made = variables(3, seed=2)
    target, images = imported(made, depth=20), pictures(2)
    with torch.no_grad():
        found = target(images, torch.ones(2, len(target.units), dtype=torch.bool))
    torch.testing.assert_close(
        found.logits, OriginalSACT(made, never=True)(images)[0], rtol=1e-9, atol=1e-9
    )


def test_an_import_that_does_not_fit_lists_what_is_wrong():
    made = variables(2)
    del made["BatchNorm/gamma"]
    made["resnet_residual/block_1/unit_1/residual/conv9/weights"] = torch.zeros(1)
    made["resnet_residual/Conv/biases"] = torch.zeros(17)
    with pytest.raises(WeightsError) as error:
        SACT.from_official(made)
    for part in (
        "missing: bn.weight [64]",
        "unexpected: resnet_residual/block_1/unit_1/residual/conv9/weights",
        "stem.conv.bias is [17]",
    ):
        assert part in error.value.message
    with pytest.raises(WeightsError, match="no variables of SACT"):
        SACT.from_official({"conv1.weight": torch.zeros(1)})


def imagenet_names(target, scope="resnet_v2_50"):
    """The original's names and shapes of an ImageNet network, from ours."""
    made = {}
    for name, value in target.state_dict().items():
        if name.endswith("num_batches_tracked"):
            continue
        module, leaf = name.rsplit(".", 1)
        norm = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "moving_mean",
            "running_var": "moving_variance",
        }
        parts, is_norm = module.split("."), "bn" in module or "preact" in module
        leaf = norm[leaf] if is_norm else {"weight": "weights", "bias": "biases"}[leaf]
        if parts[0] == "blocks":
            piece = {"bn1": "conv1/BatchNorm", "bn2": "conv2/BatchNorm"}.get(parts[3], parts[3])
            module = (
                f"{scope}/block{int(parts[1]) + 1}/unit_{int(parts[2]) + 1}/bottleneck_v2/{piece}"
            )
        elif parts[0] == "scores":
            module = f"{scope}/block{int(parts[1]) + 1}/unit_{int(parts[2]) + 1}/bottleneck_v2/halting_proba/{parts[3]}"
        else:
            module = f"{scope}/" + {"stem.conv": "conv1", "bn": "postnorm", "fc": "logits"}[module]
        if leaf == "weights":
            value = value[:, :, None, None] if value.ndim == 2 else value
            value = value.permute(2, 3, 1, 0)
        made[f"{module}/{leaf}"] = value
    return made


def test_imagenet_variables_find_their_places():
    target = lively(depth=50, layout="imagenet")
    state = SACT.from_official(imagenet_names(target))
    assert all(
        torch.equal(value, state[name])
        for name, value in target.state_dict().items()
        if "tracked" not in name
    )


def test_an_exported_file_is_imported(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    made = variables(2)
    np.savez(tmp_path / "sact.npz", **{name: value.float().numpy() for name, value in made.items()})
    arguments = [
        "weights",
        "import",
        str(tmp_path / "sact.npz"),
        "--target",
        "sact",
        "--set",
        "depth=14",
        "--as",
        "theirs",
    ]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert "use it" in done.output
    wrong = CliRunner().invoke(cli, [*arguments[:-3], "depth=20", "--as", "other"])
    assert isinstance(wrong.exception, WeightsError)
    assert "missing: blocks.0.2" in wrong.exception.message


def test_broken_archives_are_named(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.array([object()], dtype=object))
    with pytest.raises(WeightsError, match=r"'a' .*objects"):
        read_checkpoint(path)
    np.savez(path, a=np.zeros(1000), words=np.array(["x"]))
    with pytest.raises(WeightsError, match="'words'"):
        read_checkpoint(path)
    np.savez(path, a=np.zeros(1000), half=np.ones(2, np.float16), step=np.int64(3))
    found = read_checkpoint(path).state
    assert {name: value.dtype for name, value in found.items()} == {
        "a": torch.float32,
        "half": torch.float32,
        "step": torch.int64,
    }
    data = bytearray(path.read_bytes())
    data[200:300] = b"\xff" * 100
    path.write_bytes(bytes(data))
    with pytest.raises(WeightsError, match="damaged"):
        read_checkpoint(path)
    path.write_bytes(bytes(data[:1000]))
    with pytest.raises(WeightsError, match="cut short"):
        read_checkpoint(path)


# --- the contract

DEEP = pytest.mark.slow  # the same on a deeper network


@pytest.mark.parametrize(
    "params",
    [
        {"depth": 8},
        pytest.param({"depth": 14}, marks=DEEP),
        {"depth": 20, "halting": "act"},
        pytest.param({"depth": 20, "halting": "none"}, marks=DEEP),
    ],
    ids=lambda params: "-".join(map(str, params.values())),
)
def test_contract(params):
    target = lively(**params)
    assert not problems(check_target(target, pictures(3).float()))
    if len(target.units):
        opened = target(pictures(3).float()).decisions.float().mean()
        assert 0.05 < float(opened) < 0.95


@pytest.mark.parametrize("depth", [32, *(pytest.param(n, marks=DEEP) for n in (56, 110))])
def test_deep_networks_cost_what_they_say(depth):
    target = lively(depth=depth)
    image = pictures(1).float()
    for decisions in (None, random_decisions(target, 1)):
        counted = cost.count(target, image, decisions)
        assert counted.macs == int(target.macs(counted.output.decisions))


LARGE = pytest.mark.slow  # 50 to 152 layers at 224 pixels


@LARGE
@pytest.mark.parametrize("depth", [50, 101, 152])
def test_imagenet_networks_cost_what_they_say(depth):
    target = lively(depth=depth, layout="imagenet")
    images = pictures(2, 224).float()
    with torch.no_grad():
        together = target(images)
    counted = cost.count(target, images[:1], None)
    assert counted.macs == int(target.macs(counted.output.decisions))
    assert target.floor <= counted.macs <= target.ceiling
    torch.testing.assert_close(counted.output.logits[0], together.logits[0], rtol=1e-3, atol=1e-3)
    assert float((counted.output.decisions[0] == together.decisions[0]).float().mean()) > 0.99


def test_gradients_of_margins_are_right_halted_positions_included():
    target = lively(depth=14).double()
    images = pictures(1).double()
    inputs = images.clone().requires_grad_()
    output = target(inputs)
    halted = ~output.decisions
    weight = torch.randn(
        output.margins.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    for chosen in (halted, output.decisions):
        assert bool(chosen.any())
        (gradient,) = torch.autograd.grad(
            (output.margins * weight * chosen).sum(), inputs, retain_graph=True
        )
        direction = gradient / gradient.norm()

        def value(x, chosen=chosen):
            return (target(x, output.decisions).margins * weight * chosen).sum(1).detach()

        found = finite_difference(value, images, direction, step=1e-6)
        assert float(found) == pytest.approx(float((gradient * direction).sum()), rel=1e-4)


# --- the pieces


def test_halting_by_hand():
    """One position, three units that add 1: states 1, 2, 3; scores 0.5 and 0.3, then 0.5 and 0.6."""

    class Score:
        spatial = True

        def __init__(self, value):
            self.value = value

    def residual(unit, x, active):
        return torch.where(active[:, None], unit(x), x)

    def score(made, x, active):
        return x, torch.full((1, 1, 1), made.value)

    def run(scores, forced=None):
        units = [lambda x: x + 1] * 3
        return halt(
            units,
            [Score(value) for value in scores],
            torch.zeros(1, 1, 1, 1),
            forced,
            0.99,
            residual,
            score,
        )

    mean, how = run([0.5, 0.3])
    assert float(mean) == pytest.approx(0.5 * 1 + 0.3 * 2 + 0.2 * 3)
    assert float(how.ponder()) == pytest.approx(3 + 0.2)
    assert [float(total) for total in how.sums] == pytest.approx([0.5, 0.8])
    mean, how = run([0.5, 0.6])
    assert float(mean) == pytest.approx(0.5 * 1 + 0.5 * 2), (
        "halts behind unit 2 with the remainder 1 - 0.5"
    )
    assert float(how.ponder()) == pytest.approx(2 + 0.5)
    assert [bool(active) for active in how.active] == [True, False]
    mean, how = run([0.995, 0.6])
    assert float(mean) == pytest.approx(1.0)
    assert float(how.ponder()) == pytest.approx(2.0)
    assert [float(total) for total in how.sums] == pytest.approx([0.995, 0.995]), (
        "the sum stands still"
    )
    forced = [torch.ones(1, 1, 1, dtype=torch.bool)] * 2
    mean, _ = run([0.5, 0.6], forced)
    assert float(mean) == pytest.approx(0.5 * 1 + 0.6 * 2 - 0.1 * 3)


def test_windows_are_those_of_a_convolution():
    torch.manual_seed(0)
    x, mask = torch.randn(1, 5, 6, 7), torch.rand(6, 7) < 0.4
    conv = torch.nn.Conv2d(5, 4, 3, padding=1)
    where = Positions.of(mask)
    whole = conv(x)
    torch.testing.assert_close(multiply(conv, where.windows(x)), where.values(whole))
    torch.testing.assert_close(where.put(where.values(whole)), whole * mask)


def test_dilation_by_hand():
    mask = torch.zeros(1, 4, 5, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 3, 3] = True
    expected = torch.tensor(
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 1, 1, 1], [0, 0, 1, 1, 1]], dtype=torch.bool
    )
    assert torch.equal(dilate(mask)[0], expected)


def test_macs_of_one_active_position_by_hand():
    target = SACT(depth=14).eval()
    off, _ = target.extremes()
    one = off.clone()
    one[0, 33] = True  # block 1, unit 2, row 1, column 1: nine positions in reach
    unit = 9 * (9 * 16 * 16) + (9 * 16 * 16 + 16)
    assert int(target.macs(one)) - int(target.macs(off)) == unit
    corner = off.clone()
    corner[0, 0] = True
    assert int(target.macs(corner)) - int(target.macs(off)) == 4 * (9 * 16 * 16) + (
        9 * 16 * 16 + 16
    )
    assert int(target.units.cost[33]) == 2 * 9 * 16 * 16 + 16
    deeper = SACT(depth=20)
    assert int(deeper.units.cost[0]) == 2 * 9 * 16 * 16 + 16 + 9 * 16 + 1, (
        "with its score, for it is not the last"
    )


def test_standardisation_ignores_brightness_and_contrast():
    images = pictures(2)
    torch.testing.assert_close(
        standardize(0.5 * images + 0.2), standardize(images), rtol=1e-6, atol=1e-6
    )
    flat = torch.full((1, 3, 32, 32), 0.3)
    assert float(standardize(flat).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("params", "told"),
    [
        pytest.param({"depth": 21}, "did you mean 20 or 26", id="21"),
        pytest.param({"depth": 60, "layout": "imagenet"}, "did you mean 50", id="imagenet-60"),
        pytest.param({"num_classes": 0}, "at least 1", id="no-classes"),
    ],
)
def test_networks_that_do_not_exist(params, told):
    with pytest.raises(PlanError, match=told):
        SACT(**params)


# --- the recipe


def test_stages():
    stages = SACTRecipe.stages
    assert [stage().weights_name(name) for name, stage in stages.items()] == [
        "sact-20-static",
        "sact-20-sact",
        "sact-20-act",
    ]
    for stage in stages.values():
        assert type(stage(depth=8).build(10)) is SACT
        assert stage().twin_name() == "sact-20-static"
    target = stages["sact"](depth=8, halting_bias=-2.0).build(10)
    stages["sact"](depth=14, halting_bias=-2.0).begin(target)
    assert all(
        float(module.bias.detach()) == -2
        for module in target.modules()
        if isinstance(module, HaltingScore)
    )
    stages["sact"](depth=14, halting_bias="keep").begin(target)
    assert all(
        float(module.bias.detach()) == -2
        for module in target.modules()
        if isinstance(module, HaltingScore)
    )


def test_the_ponder_cost_is_ramped_and_pushes_scores_up():
    stage = SACTRecipe.stages["sact"](depth=14, ponder=0.5)
    target = lively(depth=14)
    images, labels = pictures(2).float(), torch.tensor([1, 2])
    losses = [
        stage.loss(target, images, labels, Moment(done, torch.Generator()))[0]
        for done in (0.0, 0.125, 0.25, 0.9)
    ]
    _, runs = target.walk(images)
    assert all(isinstance(run, HaltingRun) for run in runs)
    pondered = float(torch.stack([run.ponder() for run in runs]).sum(0).mean().detach())
    gaps = [float((loss - losses[0]).detach()) for loss in losses]
    assert gaps == pytest.approx([0, 0.25 * pondered, 0.5 * pondered, 0.5 * pondered], rel=1e-4)
    bias = target.scores[0][0].bias
    (gradient,) = torch.autograd.grad(losses[-1] - losses[0], bias)
    assert float(gradient) < 0


def test_images_that_halted_everywhere_are_left_out_of_a_unit():
    torch.manual_seed(0)
    unit = BasicUnit(form_for("cifar", 8), 16, 16, 1, first=False).eval().requires_grad_(False)
    images = torch.randn(4, 16, 8, 8)
    active = torch.rand(4, 8, 8) < 0.5
    active[1], active[3] = False, True
    met = []
    unit.register_forward_hook(lambda module, inputs, output: met.append(len(output)))

    def found(mix):
        x = images.clone().requires_grad_()
        y = mix(x)
        return y.detach(), torch.autograd.grad((y * y).sum(), x)[0]

    mine = found(lambda x: _residual_whole(unit, x, active))
    whole = found(lambda x: torch.where(active[:, None], unit(x), x))
    assert met == [3, 4]
    for a, b in zip(mine, whole, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)
