"""What is measured beside a finished run is of the targets, the data and the images of that run."""

from dataclasses import replace

import pytest
import torch

from bench.analysis import apart, headroom, transfer
from bench.analysis.reference_rows import reference_rows
from bench.contracts.dataset import Dataset, PixelDataset
from bench.evaluation import build
from bench.plans.resolve import load_plan
from bench.plans.stored import read_plan
from bench.regression.baseline import Baseline
from bench.results.board import load_boards
from bench.results.reading import FinishedCell
from bench.runs.execute import RunRequest, execute
from bench.store.folder import RunFolder
from targets.defenses.cap import Cap


def test_an_attack_that_goes_on_is_run_again_from_the_same_images(gatebench, tmp_path):
    """With the budget that it had, the images are those that it saved."""
    assert gatebench("run", "plan.toml", "--name", "r", "--no-report", "--in-process")[0] == 0
    code, _, err = gatebench("beat", "r", "toy random:0 / wander", "--in-process", "--no-report")
    assert code == 0, err
    (beaten,) = {path.name for path in (tmp_path / "runs").iterdir()} - {"r"}
    assert gatebench("merge", "r", beaten, "--out", "runs/all", "--no-report")[0] == 0
    run = RunFolder(tmp_path / "runs/all")
    ((key, cell),) = [
        (key, cell) for key, cell in read_plan(run).cells.items() if cell.attack.name == "onward"
    ]
    finished = FinishedCell(key, cell, run.cell(key), 0.0)
    rows = reference_rows(cell, finished, cell.protocol.images, "cpu", None)
    kept = run.cell(key).table(["id", "adversarial"]).to_pylist()
    assert [(row["id"], row["adversarial"]) for row in rows] == [
        (row["id"], row["adversarial"]) for row in kept
    ]


def other_weights(target):
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.mul_(-1)
    return target


@pytest.mark.parametrize("command", ["headroom", "transfer", "latency"])
def test_a_target_that_is_another_one_now_gives_no_numbers(
    gatebench, tmp_path, monkeypatch, command
):
    assert gatebench("run", "plan.toml", "--name", "r", "--no-report", "--in-process")[0] == 0
    made = build.build_target
    monkeypatch.setattr(build, "build_target", lambda component: other_weights(made(component)))
    monkeypatch.setattr(apart, "HOME_DISTRIBUTION", "mischief")  # in this process
    code, out, err = gatebench(command, "r")
    assert code == 5, out
    assert "gives another result here than in the run" in err
    assert not list((tmp_path / "runs/r").glob(f"{command}.*"))


def remembering(target):
    """Results of `execute` by image: computed once, looked up afterwards."""
    kept, run = {}, target.execute

    def execute(image, decisions=None):
        key = image.numpy().tobytes(), decisions is None
        return kept[key] if key in kept else kept.setdefault(key, run(image, decisions))

    target.execute = execute
    return target


def test_results_that_are_looked_up_have_no_latency(gatebench, tmp_path, monkeypatch):
    assert gatebench("run", "plan.toml", "--name", "r", "--no-report", "--in-process")[0] == 0
    made = build.build_target
    monkeypatch.setattr(build, "build_target", lambda component: remembering(made(component)))
    code, out, err = gatebench("latency", "r", "--images", "2", "--repeats", "1")
    assert code == 7, out
    assert "toy random:0: macs(decisions) says" in err
    assert "ptflops counts 0 when the image is executed" in err
    assert not list((tmp_path / "runs/r").glob("latency.*"))


def ending(target):
    """`execute` ends the program, as if all were done."""

    def execute(image, decisions=None):
        raise SystemExit(0)

    target.execute = execute
    return target


@pytest.mark.parametrize(
    ("command", "ends", "said"),
    [
        pytest.param(("latency", "r"), 7, "toy random:0 raised SystemExit: 0", id="latency"),
        pytest.param(("verify", "r"), 10, "cannot be examined: SystemExit: 0", id="verify"),
    ],
)
def test_a_target_that_exits_is_no_success(gatebench, monkeypatch, command, ends, said):
    assert gatebench("run", "plan.toml", "--name", "r", "--no-report", "--in-process")[0] == 0
    made = build.build_target
    monkeypatch.setattr(build, "build_target", lambda component: ending(made(component)))
    code, out, err = gatebench(*command)
    assert code == ends, out + err
    assert said in out + err


def test_a_plugin_that_exits_is_never_a_success(gatebench, monkeypatch):
    def leave(*given, **named):
        raise SystemExit(0)

    monkeypatch.setattr("bench.store.folder.find_run", leave)
    code, _, err = gatebench("latency", "r")
    assert code == 7
    assert "a plugin ended the command before it was done: SystemExit: 0 in " in err
    assert "test_made_again.py, line " in err


def test_images_that_are_others_now_give_no_headroom(gatebench, tmp_path, monkeypatch):
    assert gatebench("run", "plan.toml", "--name", "r", "--no-report", "--in-process")[0] == 0
    plain = Dataset.images

    def others(self, indices):
        found = plain(self, indices)
        found[:, 0, 0, 0] ^= 1
        return found

    monkeypatch.setattr(Dataset, "images", others)
    monkeypatch.setattr(apart, "HOME_DISTRIBUTION", "mischief")
    code, out, err = gatebench("headroom", "r")
    assert code == 5, out
    assert "is another one here" in err


def test_times_of_another_target_under_the_label_are_not_shown(gatebench, tmp_path):
    """Neither on the board nor in a baseline."""
    plan = tmp_path / "plan.toml"
    plan.write_text(plan.read_text().replace('use = "toy"', 'use = "toy"\nlabel = "net"'))
    assert gatebench("run", "plan.toml", "--name", "r", "--no-report", "--in-process")[0] == 0
    assert gatebench("latency", "r", "--images", "2", "--repeats", "1")[0] == 0
    run = RunFolder(tmp_path / "runs/r")
    for there in (True, False):
        if not there:
            plan.write_text(plan.read_text().replace("random:0", "random:1"))
            again = RunRequest(load_plan(plan), "", tmp_path / "runs", name="r", renew=True)
            execute(replace(again, in_process=True))
        assert (load_boards(run.path)[0].latency is not None) == there
        assert (Baseline.of_run(run.path).latency is not None) == there


COMMANDS = {
    "headroom": ("r",),
    "transfer": ("r",),
    "latency": ("r", "--images", "2", "--repeats", "1"),
    "accept": ("in.zip", "--into", "fewer"),
}
"""Commands that make a defense learn again."""


@pytest.fixture
def capped(gatebench, tmp_path, monkeypatch):
    """Finished runs behind a cap that no clean image meets; what follows is in this process."""
    plan = (tmp_path / "plan.toml").read_text().replace("budget", "fit = { images = 4 }\nbudget", 1)
    plan += '[[defense]]\nuse = "cap"\nparams = { quantile = 1.0 }\n'
    fewer = plan.replace('[[attack]]\nuse = "wander"\n', "")
    for name, text in (("r", plan), ("fewer", fewer)):
        (tmp_path / "plan.toml").write_text(text)
        run = ("run", "plan.toml", "--name", name, "--no-report", "--in-process")
        assert gatebench(*run)[0] == 0
    words = ("--who", "Me", "--what", "Steps.", "--license", "MIT")
    assert gatebench("submit", "r", "--out", "in.zip", *words)[0] == 0
    for module in (headroom, transfer):
        monkeypatch.setattr(
            module, "apart", lambda cell, work, *arguments, deadline=None: work(*arguments)
        )
    build.opened_dataset.cache_clear()
    yield gatebench
    build.opened_dataset.cache_clear()


def nothing_comes_of(gatebench, folder, said):
    for command, arguments in COMMANDS.items():
        code, out, err = gatebench(command, *arguments)
        assert code != 0, (command, out)
        assert said in err, command
        assert not list((folder / "runs/r").glob(f"{command}.*"))
    assert len(read_plan(RunFolder(folder / "runs/fewer")).cells) == 2


def test_a_defense_that_learns_otherwise_now_gives_no_numbers(capped, tmp_path, monkeypatch):
    """Clean images need not tell: a cap that they do not meet may lie anywhere."""

    def learns_more(self, target, images):
        return {"limit": torch.tensor(target.undefended.ceiling)}

    monkeypatch.setattr(Cap, "fit", learns_more)
    nothing_comes_of(capped, tmp_path, "its defense learns otherwise here than in the run")


def test_a_defense_that_learns_from_other_images_now_gives_no_numbers(
    capped, tmp_path, monkeypatch
):
    plain = PixelDataset.pixels

    def others(self, indices):
        found = plain(self, indices)
        found[:, 0, 0, 0] ^= int(self.split == "train")
        return found

    monkeypatch.setattr(PixelDataset, "pixels", others)
    said = "that are learned from are others than when the run began"
    nothing_comes_of(capped, tmp_path, said)
