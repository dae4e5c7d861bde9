"""`gatebench train` from the command line to the manifest."""

import os
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner

import bench.datasets.base
from bench.cli import cli
from bench.contracts.dataset import Dataset
from bench.datasets.base import classes_digest
from bench.errors import InUse, PlanError, RunFolderError, UnknownName, WeightsError
from bench.weights import add_entry, read_manifest, read_record, read_state
from bench.weights.cards import card
from targets.resnet import ResNet
from targets.skipnet import SkipNet


class Few(Dataset):
    """Forty images in two classes."""

    flip_allowed = False

    def __init__(self, split, data_root=None):
        self.name, self.split, self.classes, self.image_shape = (
            "few",
            split,
            ("dark", "light"),
            (3, 32, 32),
        )
        generator = torch.Generator().manual_seed(len(split))
        self.label_array = (torch.arange(40) % 2).numpy()
        shade = 120 * (torch.arange(40) % 2).view(40, 1, 1, 1)
        self.held = (
            (torch.randint(0, 120, (40, 3, 32, 32), generator=generator) + shade)
            .to(torch.uint8)
            .numpy()
        )
        self.ids = tuple(f"{split}-{index}" for index in range(40))

    def pixels(self, indices):
        return self.held[list(indices)]


@pytest.fixture(autouse=True)
def few(monkeypatch, tmp_path):
    monkeypatch.setattr(
        bench.datasets.base, "open_dataset", lambda name, root=None: Few(name.partition(":")[2])
    )
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))


def run(*args):
    result = CliRunner().invoke(cli, ["train", *args], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


SMALL = (
    "--dataset",
    "few",
    "--set",
    "depth=8",
    "--set",
    "batch=20",
    "--epochs",
    "2",
    "--device",
    "cpu",
)


def test_a_chain_of_stages(tmp_path):
    out = tmp_path / "out"
    output = run("skipnet", "--stage", "static", *SMALL, "--out", str(out))
    assert "epoch   1/2" in output
    assert "epoch   2/2" in output
    output = run("skipnet", "--stage", "budget", *SMALL, "--out", str(out))
    assert "static twin" in output
    output = run(
        "skipnet",
        "--stage",
        "hrl",
        *SMALL,
        "--out",
        str(out),
        "--from",
        "skipnet-8-budget@few",
        "--set",
        "alpha=0.5",
    )
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.toml",
        "resnet-8-static@few.json",
        "resnet-8-static@few.safetensors",
        "skipnet-8-budget@few.json",
        "skipnet-8-budget@few.safetensors",
        "skipnet-8-hrl@few.json",
        "skipnet-8-hrl@few.safetensors",
    ]
    entries = read_manifest(out)
    static, budget, hybrid = (
        entries[f"{name}@few"] for name in ("resnet-8-static", "skipnet-8-budget", "skipnet-8-hrl")
    )
    assert static.target == "resnet"
    assert static.static_accuracy == static.accuracy == budget.static_accuracy
    assert budget.target == hybrid.target == "skipnet"
    assert hybrid.params == {
        "depth": 8,
        "gate": "rnn",
        "form": "hrl",
        "layout": "cifar",
        "num_classes": 2,
    }
    assert hybrid.more["started_from"] == "skipnet-8-budget@few"
    assert hybrid.more["training"]["alpha"] == 0.5
    assert hybrid.more["training"]["start"] == budget.sha256
    assert budget.licence == "MIT"
    assert (budget.recipe, budget.stage, budget.seed, budget.epochs, budget.dataset) == (
        "skipnet",
        "budget",
        0,
        2,
        "few",
    )
    assert len(budget.opening_rates) == len(SkipNet(depth=8).units)
    record = read_record(budget)
    assert record["rates"] == list(budget.opening_rates)
    assert record["owners"] == [[name, "block", [], 1] for name in SkipNet(depth=8).units.owner]
    assert {name: len(curve) for name, curve in record["curves"].items()} == {
        "loss": 2,
        "accuracy": 2,
        "open": 2,
    }

    target = SkipNet(**budget.params).eval()
    target.load_state_dict(read_state(budget))
    data = Few("test")
    with torch.no_grad():
        found = target(data.images(range(40)).float() / 255)
    assert budget.accuracy == pytest.approx(
        float((found.logits.argmax(1) == data.labels).float().mean())
    )
    spent = target.macs(found.decisions).double() / target.ceiling
    assert budget.ceiling == target.ceiling
    assert budget.clean_saving == pytest.approx(1 - float(spent.mean()), abs=1e-6)
    assert budget.spread == pytest.approx(float(spent.std(correction=0)), abs=1e-6)
    ResNet(**static.params).load_state_dict(read_state(static))


def test_the_same_command_again_does_nothing_and_fresh_gives_the_same_bytes(tmp_path):
    args = ("skipnet", "--stage", "static", *SMALL, "--out", str(tmp_path))
    run(*args)
    first = (tmp_path / "resnet-8-static@few.safetensors").read_bytes()
    assert "already trained" in run(*args)
    assert "epoch" not in run(*args).replace("2 epochs", "")
    assert "epoch   2/2" in run(*args, "--fresh")
    assert (tmp_path / "resnet-8-static@few.safetensors").read_bytes() == first
    refused = CliRunner().invoke(cli, ["train", *args, "--seed", "1"]).exception
    assert isinstance(refused, PlanError)
    assert "were trained otherwise (seed = 0, now 1), and would be replaced" in refused.message
    assert (tmp_path / "resnet-8-static@few.safetensors").read_bytes() == first
    assert "epoch   2/2" in run(*args, "--seed", "1", "--as", "other")
    assert "epoch   2/2" in run(*args, "--seed", "1", "--fresh")
    assert (tmp_path / "resnet-8-static@few.safetensors").read_bytes() != first
    (tmp_path / "resnet-8-static@few.safetensors").write_bytes(b"altered")
    assert "epoch   2/2" in run(*args, "--seed", "1")


def test_what_was_begun_in_place_of_other_weights_goes_on(tmp_path, monkeypatch):
    """Whoever began it said `--fresh`, and would begin again by saying so once more."""
    from bench.training import loop

    args = ("skipnet", "--stage", "static", *SMALL, "--out", str(tmp_path))
    run(*args)
    real = loop.train

    def killed(*given, watch, **more):
        def epoch(found):
            raise KeyboardInterrupt

        return real(*given, watch=replace(watch, epoch=epoch), **more)

    monkeypatch.setattr(loop, "train", killed)
    CliRunner().invoke(cli, ["train", *args, "--seed", "1", "--fresh"])
    assert (tmp_path / "checkpoints" / "resnet-8-static@few.pt").exists()
    monkeypatch.setattr(loop, "train", real)
    output = run(*args, "--seed", "1")
    assert "epoch   2/2" in output
    assert "epoch   1/2" not in output
    assert read_manifest(tmp_path)["resnet-8-static@few"].seed == 1


def test_a_name_that_is_a_path_is_refused_before_anything_is_trained_or_removed(tmp_path):
    """A checkpoint is called by it, and `--fresh` removes that."""
    (tmp_path / "thesis.pt").write_text("years of work")
    args = ("skipnet", "--stage", "static", *SMALL, "--out", str(tmp_path / "a"))
    with pytest.raises(PlanError, match="cannot name weights"):
        run(*args, "--as", "../../thesis", "--fresh")
    assert (tmp_path / "thesis.pt").read_text() == "years of work"
    assert not (tmp_path / "a").exists()


def test_two_trainings_of_one_name_keep_off_each_other(tmp_path):
    from bench.files.locks import claimed

    args = ("skipnet", "--stage", "static", *SMALL, "--out", str(tmp_path))
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    checkpoint = folder / "resnet-8-static@few.pt"
    checkpoint.write_bytes(b"of the other one")
    with claimed(folder / "resnet-8-static@few.lock", RunFolderError):
        for more in ((), ("--fresh",)):
            with pytest.raises(InUse, match=f"by another gatebench .process {os.getpid()}.") as e:
                run(*args, *more)
            assert "--as" in e.value.hint
        assert checkpoint.read_bytes() == b"of the other one"
        run(*args, "--as", "mine")
    assert sorted(os.listdir(folder)) == ["resnet-8-static@few.lock", checkpoint.name]
    run(*args, "--fresh")
    assert not folder.exists()


def test_another_teacher_of_the_same_name_is_another_training(tmp_path):
    from targets.vit import ViT

    params = {"backbone": "vit-16x1-p8", "num_classes": 2}

    def teach(seed, classes=("dark", "light")):
        torch.manual_seed(seed)
        values = {"target": "vit", "params": params, "classes_sha256": classes_digest(classes)}
        return add_entry(tmp_path, "taught", ViT(**params).state_dict(), values)

    args = ("vit", "--stage", "static", "--dataset", "few", "--set", "backbone=vit-16x1-p8")
    args += ("--set", "teacher=taught", "--epochs", "1", "--device", "cpu", "--out", str(tmp_path))
    first = teach(0)
    run(*args)
    made = read_manifest(tmp_path)["vit-16x1-p8-static@few"]
    assert made.more["training"]["teacher_sha256"] == first.digest
    assert "--set teacher_sha256" not in card(made)
    assert "already trained" in run(*args)
    teach(1)
    with pytest.raises(PlanError, match=r"trained otherwise \(teacher_sha256 = "):
        run(*args)
    assert "epoch   1/1" in run(*args, "--fresh")
    assert read_manifest(tmp_path)["vit-16x1-p8-static@few"].sha256 != made.sha256
    teach(1, ("light", "dark"))
    with pytest.raises(WeightsError, match="taught tells other classes apart than few:train has"):
        run(*args)


def test_the_accuracy_of_a_static_twin_is_one_on_the_same_images(tmp_path):
    out = ("--out", str(tmp_path))
    run("skipnet", "--stage", "static", *SMALL, *out)
    twin = read_manifest(tmp_path)["resnet-8-static@few"]
    others = [{"measured_on": "few:test (4 images)"}, {"classes_sha256": "0" * 16}]
    for other in others:
        values = {**vars(twin), "more": {**twin.more, **other}}
        del values["name"], values["folder"], values["origin"]
        add_entry(tmp_path, twin.name, read_state(twin), values)
        output = run("skipnet", "--stage", "budget", *SMALL, *out, "--fresh")
        assert "resnet-8-static@few is not there, or was measured on other images" in output
        assert read_manifest(tmp_path)["skipnet-8-budget@few"].static_accuracy is None


def test_a_name_that_shipped_weights_have_too_is_told_in_full(tmp_path):
    """A plan that says the bare name gets those that are shipped."""
    args = ("skipnet", "--stage", "static", *SMALL)
    assert "weights = " not in run(*args)
    output = run(*args, "--as", "resnet-20-static@digits-m")
    assert 'weights = "own/resnet-20-static@digits-m"' in output
    assert "'resnet-20-static@digits-m' are those of gatebench" in output
    elsewhere = ("--as", "resnet-20-static@digits-m", "--out", str(tmp_path / "elsewhere"))
    assert "weights = " not in run(*args, *elsewhere)


def test_weights_go_home_under_another_name(tmp_path):
    run("skipnet", "--stage", "static", *SMALL, "--as", "mine")
    assert set(read_manifest(tmp_path / "home" / "weights")) == {"mine"}


def test_without_a_stage_the_stages_are_shown():
    output = run("skipnet")
    for part in [
        "static: ",
        "sp: ",
        "budget: ",
        "hrl: ",
        "starts from: ",
        "alpha: float",
        "next: gatebench train skipnet --stage",
    ]:
        assert part in output


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        pytest.param(("skipnt",), UnknownName, "did you mean 'skipnet'", id="recipe"),
        pytest.param(
            ("skipnet", "--stage", "budgt"), UnknownName, "did you mean 'budget'", id="stage"
        ),
        pytest.param(
            ("skipnet", "--stage", "static", "--set", "dept=20"),
            PlanError,
            "did you mean 'depth'",
            id="parameter",
        ),
        pytest.param(
            ("skipnet", "--stage", "static", "--set", "depth=deep", "--set", "lr=high"),
            PlanError,
            "lr",
            id="two-values",
        ),
        pytest.param(
            ("skipnet", "--stage", "static", "--set", "depth"),
            PlanError,
            "KEY=VALUE",
            id="no-value",
        ),
        pytest.param(
            ("skipnet", "--stage", "static", "--set", "lr=0"), PlanError, "above 0", id="zero-rate"
        ),
        pytest.param(
            ("skipnet", "--stage", "static", "--set", "epochs=3", "--epochs", "4"),
            PlanError,
            "same thing",
            id="epochs-twice",
        ),
        pytest.param(
            ("skipnet", "--stage", "static", "--set", "depth=21"),
            PlanError,
            "did you mean 20 or 26",
            id="depth",
        ),
        pytest.param(
            ("skipnet", "--stage", "hrl", "--set", "depth=8"),
            WeightsError,
            "--stage",
            id="needs-weights",
        ),
        pytest.param(
            ("skipnet", "--stage", "hrl", "--from", "skipnet-20-budgt@digits-m"),
            UnknownName,
            "skipnet-20-budget@digits-m",
            id="no-weights",
        ),
    ],
)
def test_mistakes(args, kind, message):
    with pytest.raises(kind) as error:
        CliRunner().invoke(cli, ["train", *args], catch_exceptions=False)
    assert message in str(error.value)


def test_help_teaches():
    output = run("--help")
    for part in ["--stage", "same command goes on", "skipnet-20-budget@digits-m", "--set"]:
        assert part in output


def test_auto_precision_goes_on_in_what_was_begun(tmp_path, monkeypatch):
    from bench.training import precision

    monkeypatch.setattr(precision, "step_seconds", lambda kind, device: float(kind == "bf16"))
    out = ("--out", str(tmp_path))
    assert ", fp32 ->" in run("skipnet", "--stage", "static", *SMALL, *out)
    assert read_manifest(tmp_path)["resnet-8-static@few"].more["training"]["precision"] == "fp32"
    monkeypatch.setattr(precision, "step_seconds", lambda kind, device: float(kind == "fp32"))
    assert "already trained" in run("skipnet", "--stage", "static", *SMALL, *out)
    assert ", bf16 ->" in run("skipnet", "--stage", "static", *SMALL, *out, "--fresh")


def test_lines_within_an_epoch_come_by_time(capsys):
    from bench.cli.training_display import TrainingDisplay
    from bench.training.settings import Epoch

    now = [0.0]
    with TrainingDisplay(clock=lambda: now[0]) as watch:
        for step in range(1, 6):
            now[0] += 12
            watch.within(Epoch(1, 2, {"loss": 2.0 / step}, now[0], step, 5))
        watch.epoch(Epoch(1, 2, {"loss": 0.4}, 60.0, 5, 5))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["epoch   1/2  step 3/5  loss 0.667  36 s", "epoch   1/2  loss 0.400  60 s"]
