import argparse
import re
import tomllib

import pytest
import torch
from click.testing import CliRunner

from bench import weights as store
from bench.cli.weights import weights
from bench.errors import PlanError, UnknownName, WeightsError
from bench.plans.resolve import load_plan
from bench.plugins import registry

SKIPNET = ["--target", "skipnet", "--set", "depth=20"]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "weights"


@pytest.fixture(scope="module")
def network():
    from targets.skipnet import SkipNet

    torch.manual_seed(0)
    net = SkipNet(depth=20)
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.randn_like(value).abs())
    return net


@pytest.fixture
def official(tmp_path, network):
    """A checkpoint as the authors' code saved it: prefixed, projections twice, no counters,
    wrapped, old format."""
    state = {}
    for key, value in network.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            state[f"module.{key}"] = value
            copy = re.sub(r"^group(\d)_ds0\.", r"group\1_layer0.downsample.", key)
            state[f"module.{copy}"] = value
    path = tmp_path / "resnet-20.pth.tar"
    torch.save(
        {"iter": 64000, "arch": "x", "state_dict": state, "best_prec1": 90.5},
        path,
        _use_new_zipfile_serialization=False,
    )
    return path


def run(*arguments):
    return CliRunner().invoke(weights, [str(one) for one in arguments], catch_exceptions=True)


def test_an_official_checkpoint_becomes_weights(home, official, network):
    result = run(
        "import",
        official,
        *SKIPNET,
        "--as",
        "official-20",
        "--dataset",
        "cifar10",
        "--licence",
        "MIT",
    )
    assert result.exception is None, result.output
    assert "iter 64000" in result.output
    assert "counters that old torch did not save" in result.output
    entry = store.find("official-20")
    assert (entry.target, entry.dataset, entry.licence, entry.params["depth"]) == (
        "skipnet",
        "cifar10",
        "MIT",
        20,
    )
    state, expected = store.read_state(entry), network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    snippet = re.search(r"\[\[target\]\].*", result.output, re.DOTALL).group()
    assert tomllib.loads(snippet)["target"] == [{"use": "skipnet", "weights": "official-20"}]


def test_what_trainers_wrap_around_is_opened_and_what_is_left_out_is_said(official):
    state = torch.load(official, weights_only=True)["state_dict"]
    plain = {key.removeprefix("module."): value for key, value in state.items()}
    content = {
        "model": {f"_orig_mod.module.{key}": value for key, value in plain.items()},
        "model_ema": {f"module.{key}": value + 1 for key, value in plain.items()},
        "args": argparse.Namespace(lr=0.1),
    }
    torch.save(content, official)
    result = run("import", official, *SKIPNET, "--as", "plain")
    assert result.exception is None, result.output
    assert "left out model_ema (a running average" in result.output
    assert "left out args (Namespace)" in result.output
    assert torch.equal(store.read_state(store.find("plain"))["fc.bias"], plain["fc.bias"])
    result = run("import", official, *SKIPNET, "--as", "averaged", "--part", "model_ema")
    assert result.exception is None, result.output
    assert torch.equal(store.read_state(store.find("averaged"))["fc.bias"], plain["fc.bias"] + 1)


def test_the_wrong_depth_is_explained(home, official):
    result = run("import", official, "--target", "skipnet", "--set", "depth=38", "--as", "a")
    assert isinstance(result.exception, WeightsError)
    assert "missing: group1_layer3.conv1.weight [16, 16, 3, 3]" in result.exception.message
    assert "depth = 38" in result.exception.hint
    assert not home.exists()


def test_a_tensor_too_few_or_too_many(home, official, tmp_path):
    wrapper = torch.load(official, weights_only=True)
    state = wrapper["state_dict"]
    state["module.extra.weight"] = torch.ones(3)
    del state["module.fc.bias"]
    state["module.conv1.weight"] = torch.ones(16, 3, 5, 5)
    torch.save(wrapper, official)
    result = run("import", official, *SKIPNET, "--as", "a")
    assert isinstance(result.exception, WeightsError)
    for line in (
        "missing: fc.bias [10]",
        "unexpected: extra.weight [3]",
        "misshapen: conv1.weight is [16, 3, 5, 5], expected [16, 3, 3, 3]",
    ):
        assert line in result.exception.message
    assert not home.exists()


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        pytest.param(
            ["--target", "skipnot", "--as", "a"], UnknownName, "did you mean 'skipnet'", id="target"
        ),
        pytest.param(
            ["--target", "skipnet:38-rn", "--as", "a"], PlanError, "no preset '38-rn'", id="preset"
        ),
        pytest.param(
            ["--target", "skipnet", "--set", "dept=20", "--as", "a"],
            PlanError,
            "did you mean 'depth'",
            id="parameter",
        ),
        pytest.param(
            ["--target", "skipnet", "--set", "depth=many", "--as", "a"],
            PlanError,
            "depth: int",
            id="value",
        ),
        pytest.param(
            ["--target", "skipnet", "--set", "depth", "--as", "a"],
            PlanError,
            "KEY=VALUE",
            id="no-value",
        ),
        pytest.param(
            ["--target", "skipnet", "--as", "Bad Name"], PlanError, "small letters", id="name"
        ),
    ],
)
def test_mistakes_on_the_command_line(official, arguments, error, match):
    result = run("import", official, *arguments)
    assert isinstance(result.exception, error)
    assert match in str(result.exception)
    assert result.exception.exit_code == 2


def test_nothing_is_overwritten(official):
    assert run("import", official, *SKIPNET, "--as", "a").exception is None
    again = run("import", official, *SKIPNET, "--as", "a")
    assert isinstance(again.exception, PlanError)
    assert "already" in again.exception.message


def test_of_two_imports_of_one_name_at_once_the_first_is_kept(home, official, monkeypatch):
    from bench.weights import checkpoint

    state = store.read_state(store.find("resnet-20-static@digits-m"))
    real = checkpoint.read_checkpoint

    def slow(*given, **more):
        store.add_entry(home, "a", state, {"target": "resnet"})
        return real(*given, **more)

    monkeypatch.setattr(checkpoint, "read_checkpoint", slow)
    error = run("import", official, *SKIPNET, "--as", "a").exception
    assert isinstance(error, WeightsError)
    assert "'a' were written meanwhile, and are left as they are" in error.message
    assert store.find("a").target == "resnet"


def test_what_is_damaged_can_be_imported_again(home, official):
    assert run("import", official, *SKIPNET, "--as", "a").exception is None
    (file,) = home.rglob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert run("import", official, *SKIPNET, "--as", "a").exception is None
    assert file.read_bytes() == whole


def test_a_file_that_is_something_else(tmp_path, home):
    page = tmp_path / "page.pth"
    page.write_text("<!doctype html>")
    result = run("import", page, *SKIPNET, "--as", "a")
    assert isinstance(result.exception, WeightsError)
    assert "a web page" in result.exception.message
    assert not home.exists()


def test_list_and_verify(home, monkeypatch):
    monkeypatch.setattr(registry, "providers", lambda kind: ())
    assert "no weights yet" in run("list").output
    facts = {
        "target": "skipnet",
        "params": {"depth": 20},
        "dataset": "toy",
        "accuracy": 0.951,
        "clean_saving": 0.352,
    }
    store.add_entry(home, "good", {"w": torch.ones(3)}, facts)
    bad = store.add_entry(home, "bad", {"w": torch.ones(3)}, {"target": "[red]x[/red]"})
    listing = run("list").output
    for text in ("good", "skipnet depth=20, on toy", "95.1 %", "35.2 %", "[red]x[/red]", "own"):
        assert text in listing
    assert run("verify").exit_code == 0
    bad.path.write_bytes(b"")
    result = run("verify")
    assert isinstance(result.exception, WeightsError)
    assert result.exception.exit_code == 3
    assert "BAD  bad" in result.output
    assert "ok   good" in result.output
    assert run("verify", "good").exit_code == 0
    assert isinstance(run("verify", "goood").exception, UnknownName)


def test_a_broken_manifest_does_not_hide_the_others(home, monkeypatch):
    monkeypatch.setattr(registry, "providers", lambda kind: ())
    home.mkdir(parents=True)
    (home / "manifest.toml").write_text("[")
    result = run("list")
    assert result.exit_code == 0
    assert "left out, from own" in result.stderr
    assert isinstance(run("verify").exception, WeightsError)


def test_imported_weights_are_measured(home):
    """Shipped weights under a name of one's own come out as their training measured them."""
    shipped = store.find("skipnet-20-budget@digits-m")
    values = {"target": "skipnet", "params": shipped.params, "dataset": "digits-m"}
    store.add_entry(home, "mine", store.read_state(shipped), values)
    assert store.find("mine").accuracy is None
    result = run("measure", "mine", "--images", "200")
    assert result.exception is None
    found = store.find("mine")
    assert found.accuracy == pytest.approx(shipped.accuracy, abs=0.05)
    assert found.clean_saving == pytest.approx(shipped.clean_saving, abs=0.03)
    assert found.ceiling == shipped.ceiling
    assert found.more["measured_on"] == "digits-m:test (200 images)"
    assert len(found.opening_rates) == len(store.read_record(found)["rates"]) == 8
    assert found.sha256 == shipped.sha256
    assert "warning" not in result.output
    store.add_entry(home, "mine", store.read_state(shipped), {**values, "classes_sha256": "0"})
    result = run("measure", "mine", "--images", "4")
    assert (
        "warning: mine were trained on other classes than those of digits-m:test" in result.output
    )
    result = run("measure", shipped.name)
    assert "whose manifest is not yours to write" in str(result.exception)


def test_devices_of_measure_are_those_of_other_commands(home):
    shipped = store.find("resnet-20-static@digits-m")
    values = {"target": "resnet", "params": shipped.params, "dataset": "digits-m"}
    store.add_entry(home, "mine", store.read_state(shipped), values)
    assert run("measure", "mine", "--images", "4", "--device", "auto").exception is None
    for wrong in ("cudax", "meta", "cuda:99"):
        error = run("measure", "mine", "--images", "4", "--device", wrong).exception
        assert isinstance(error, PlanError)
        assert repr(wrong) in error.message


def test_weights_that_were_trained_again_meanwhile_are_not_overwritten(home, monkeypatch):
    from bench.training import evaluate

    shipped = store.find("resnet-20-static@digits-m")
    values = {"target": "resnet", "params": shipped.params, "dataset": "digits-m"}
    state = store.read_state(shipped)
    store.add_entry(home, "mine", state, values)
    real = evaluate.measure

    def slow(target, data):
        newer = {**state, "fc.bias": state["fc.bias"] + 1}
        store.add_entry(home, "mine", newer, {**values, "accuracy": 0.5})
        return real(target, data)

    monkeypatch.setattr(evaluate, "measure", slow)
    error = run("measure", "mine", "--images", "4").exception
    assert isinstance(error, WeightsError)
    assert "'mine' were written meanwhile" in error.message
    kept = store.find("mine")
    assert kept.accuracy == 0.5
    assert torch.equal(store.read_state(kept)["fc.bias"], state["fc.bias"] + 1)


def test_weights_that_give_no_numbers_are_not_measured(home):
    """Each weight is finite, and the sum of what they multiply is not."""
    shipped = store.find("resnet-20-static@digits-m")
    state = store.read_state(shipped)
    state["fc.weight"] = torch.full_like(state["fc.weight"], 3e38)
    values = {"target": "resnet", "params": shipped.params, "dataset": "digits-m"}
    store.add_entry(home, "mine", state, values)
    error = run("measure", "mine", "--images", "4").exception
    assert isinstance(error, WeightsError)
    assert "are not finite" in error.message
    assert store.find("mine").accuracy is None


def test_the_static_twin_is_not_compared_on_other_images(home):
    shipped = store.find("skipnet-20-budget@digits-m")
    values = {"target": "skipnet", "params": shipped.params, "dataset": "digits-m"}
    twin = {"static_accuracy": 0.9, "measured_on": "digits-m:test (4 images)"}
    store.add_entry(home, shipped.name, store.read_state(shipped), {**values, **twin})
    name = f"own/{shipped.name}"
    assert run("measure", name, "--images", "4").exception is None
    assert store.find(name).static_accuracy == 0.9
    assert run("measure", name, "--images", "5").exception is None
    assert store.find(name).more["measured_on"] == "digits-m:test (5 images)"
    assert store.find(name).static_accuracy is None


def test_weights_of_which_a_part_lies_elsewhere_are_measured(home):
    shipped = store.find("skipnet-20-budget@digits-m")
    values = {"target": "skipnet", "params": shipped.params, "dataset": "digits-m"}
    state = store.read_state(shipped)
    base = store.add_entry(home, "base", state, values)
    prefix = next(iter(state)).partition(".")[0] + "."
    part = store.WeightsPart(prefix, "weights:own/base", base.digest, inside=prefix)
    store.add_entry(home, "mine", state, values, parts=[part])
    for name in ("base", "mine"):
        result = run("measure", name, "--images", "20")
        assert result.exception is None, result.exception
    assert store.find("mine").parts == (part,)
    assert len(store.read_state(store.find("mine"))) < len(state)
    assert store.find("mine").accuracy == store.find("base").accuracy
    assert store.find("mine").opening_rates == store.find("base").opening_rates


def test_weights_that_decide_nothing_are_doubted(home):
    """A random network guesses; with a bias of 100 no gate is ever closed."""
    from targets.skipnet import SkipNet

    torch.manual_seed(0)
    state = SkipNet(depth=8).state_dict()
    biases = [name for name in state if name.endswith("bias") and state[name].shape == (1,)]
    assert biases
    state |= {name: torch.full((1,), 100.0) for name in biases}
    values = {"target": "skipnet", "params": {"depth": 8}, "dataset": "digits-m"}
    store.add_entry(home, "odd", state, values)
    result = run("measure", "odd", "--images", "64")
    assert result.exception is None
    assert "is that of guessing among 10" in result.output
    assert "all 2 units are open; the threshold is probably not" in result.output


def test_most_gates_that_never_decide_are_doubted():
    from bench.training.evaluate import Measured, doubts

    owners = tuple((f"block{i}", "block", (), 1) for i in range(3))
    measured = Measured(0.9, 0.3, 0.1, 100, (0.0, 1.0, 0.5), (0.0, 1.0, 0.5), owners, 1)
    assert doubts(measured, 10) == [
        "2 of 3 gates never decide anything (first block0); is the threshold the one of the "
        "training?"
    ]
    fine = Measured(0.9, 0.3, 0.1, 100, (0.2, 1.0, 0.5), (0.2, 1.0, 0.5), owners, 2)
    assert doubts(fine, 10) == []


@pytest.mark.parametrize(
    ("params", "told"),
    [
        pytest.param({"depth": "8"}, "depth", id="text"),
        pytest.param({"depth": {"a": [1]}}, "depth", id="table"),
        pytest.param({"dept": 8}, "did you mean 'depth'", id="unknown"),
    ],
)
def test_parameters_in_a_manifest_are_held_against_the_network(home, tmp_path, params, told):
    values = {"target": "resnet", "params": params, "dataset": "digits-m"}
    store.add_entry(home, "mine", {"a": torch.ones(1)}, values)
    error = run("measure", "mine").exception
    assert isinstance(error, PlanError)
    assert told in str(error)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        '[protocol]\ndataset = "digits-m:test"\nthreat = "none"\n'
        '[[target]]\nuse = "resnet"\nweights = "mine"\n[[attack]]\nuse = "identity"\n'
    )
    with pytest.raises(PlanError, match=re.escape("target[0].weights: the weights 'mine'")) as seen:
        load_plan(str(plan))
    assert told in str(seen.value)


@pytest.mark.parametrize("rates", [["a"], [2.0], [float("nan")]], ids=["text", "high", "nan"])
def test_opening_rates_in_a_manifest_are_shares(home, rates):
    with pytest.raises(WeightsError, match=r"opening_rates holds something else"):
        store.add_entry(home, "mine", {}, {"target": "resnet", "opening_rates": rates})
