"""The training loop: crops, schedules, checkpoints that go on bit for bit, and the numbers in the
manifest."""

import copy
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from bench.datasets.base import subset
from bench.errors import DiskError, PlanError, RunFolderError, WeightsError
from bench.training import loop
from bench.training.augment import augment
from bench.training.loop import learning_rate, pick_device, train
from bench.training.settings import Training, Watch
from targets.recipes.skipnet import BudgetStage, HybridStage, StaticStage
from targets.skipnet import SkipNet

CPU = torch.device("cpu")


class Few:
    """Images of noise in three classes; few of them, of which an epoch has three batches."""

    name, split, classes, flip_allowed = "few", "train", ("a", "b", "c"), True

    def __init__(self, count=12):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 3
        noise = torch.randint(0, 128, (count, 3, 32, 32), generator=generator)
        self.pictures = (noise + 60 * self.labels[:, None, None, None]).to(torch.uint8)

    def __len__(self):
        return len(self.labels)

    def images(self, indices):
        return self.pictures[list(indices)]


def training(stage, **changes):
    return replace(Training("skipnet", "some", stage, "few"), **changes)


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items()
    )


STAGES = [
    StaticStage(depth=8, epochs=3, batch=4),
    BudgetStage(depth=8, epochs=3, batch=5, optimiser="sgd", schedule="step"),
    HybridStage(depth=8, epochs=3, batch=5, schedule="constant"),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_an_interrupted_training_ends_in_the_same_bits(stage, tmp_path):
    whole = train(training(stage), Few(), tmp_path / "whole.pt", device=CPU).target

    class Enough(Exception):
        pass

    def stop(done, total):
        if done == total // 3 + 2:  # inside the second epoch
            raise Enough

    notes = []
    with pytest.raises(Enough):
        train(training(stage), Few(), tmp_path / "cut.pt", device=CPU, watch=Watch(step=stop))
    torch.rand(17)  # whatever else has drawn from the global generator
    epochs = []
    watch = Watch(epoch=lambda epoch: epochs.append(epoch.number), note=notes.append)
    again = train(training(stage), Few(), tmp_path / "cut.pt", device=CPU, watch=watch)
    resumed = again.target
    assert epochs == [2, 3]
    assert notes == ["going on after epoch 1"]
    assert same(whole, resumed)
    assert not resumed.training
    assert again.seconds > 0
    other = train(training(stage, seed=1), Few(), tmp_path / "other.pt", device=CPU).target
    assert not same(whole, other)


@pytest.mark.slow  # a process is killed; interruptions within one are quick
def test_a_killed_training_goes_on(tmp_path):
    script = f"""
import os, signal, sys, torch
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_loop import CPU, Few, STAGES, training, train, Watch
torch.set_num_threads({torch.get_num_threads()})
def kill(done, total):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)
train(training(STAGES[0]), Few(), Path({str(tmp_path / "killed.pt")!r}), device=CPU, watch=Watch(step=kill))
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["killed.pt"]
    notes = []
    resumed = train(
        training(STAGES[0]),
        Few(),
        tmp_path / "killed.pt",
        device=CPU,
        watch=Watch(note=notes.append),
    ).target
    assert notes == ["going on after epoch 1"]
    whole = train(training(STAGES[0]), Few(), tmp_path / "whole.pt", device=CPU).target
    assert same(whole, resumed)


class Clock:
    """A second a look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


def cut(stage, at, checkpoint):
    """Interrupt a training after so many steps; it writes a checkpoint a step."""

    class Enough(Exception):
        pass

    def stop(done, total):
        if done == at:
            raise Enough

    with pytest.raises(Enough):
        train(
            training(stage),
            Few(),
            checkpoint,
            device=CPU,
            watch=Watch(step=stop),
            every=0.5,
            clock=Clock(),
        )


@pytest.mark.parametrize("at", [2, 4], ids=["within-an-epoch", "between-epochs"])
def test_dropout_of_a_network_goes_on_where_it_was(at, tmp_path):
    """It draws from the global generator, of which no checkpoint tells."""

    @dataclass(frozen=True, kw_only=True)
    class Dropping(StaticStage):
        def loss(self, target, images, labels, moment):
            return super().loss(target, torch.dropout(images, 0.5, True), labels, moment)

    stage = Dropping(depth=8, epochs=2, batch=4)
    whole = train(training(stage), Few(), tmp_path / "whole.pt", device=CPU).target
    cut(stage, at, tmp_path / "cut.pt")
    torch.rand(17)
    assert same(whole, train(training(stage), Few(), tmp_path / "cut.pt", device=CPU).target)


LATER = pytest.mark.slow  # the same, interrupted later


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
@pytest.mark.parametrize("at", [2, pytest.param(5, marks=LATER)])
def test_a_training_interrupted_within_an_epoch_ends_in_the_same_bits(stage, at, tmp_path):
    """Checkpoints by time lie between steps; at most what came after the last one is done again."""
    whole = train(training(stage), Few(), tmp_path / "whole.pt", device=CPU)

    cut(stage, at, tmp_path / "cut.pt")
    torch.rand(17)  # whatever else has drawn from the global generator
    steps, notes, epochs = [], [], []
    watch = Watch(
        step=lambda done, total: steps.append(done), note=notes.append, epoch=epochs.append
    )
    resumed = train(training(stage), Few(), tmp_path / "cut.pt", device=CPU, watch=watch)
    assert steps == list(range(at + 1, 10)), "no step is done twice"
    assert notes == [f"going on after epoch {(at - 1) // 3}, step {(at - 1) % 3 + 1} of the next"]
    assert same(whole.target, resumed.target)
    assert whole.history == resumed.history
    assert [epoch.means for epoch in epochs] == list(whole.history)[(at - 1) // 3 :]
    assert resumed.seconds > 0


def test_checkpoints_within_an_epoch_come_by_time(tmp_path, monkeypatch):
    saved = []
    real = loop.save

    def save(path, training, progress, target, optimizer):
        saved.append((len(progress.history), progress.step))
        real(path, training, progress, target, optimizer)

    monkeypatch.setattr(loop, "save", save)
    stage = StaticStage(depth=8, epochs=2, batch=2)
    train(training(stage), Few(), tmp_path / "a.pt", device=CPU, every=1e9)
    assert saved == [(1, 0), (2, 0)]
    saved.clear()
    train(training(stage), Few(), tmp_path / "b.pt", device=CPU, every=3.0, clock=Clock())
    assert saved == [(0, 2), (0, 4), (1, 0), (1, 2), (1, 4), (2, 0)]


def test_progress_within_an_epoch_is_told(tmp_path):
    seen = []
    stage = StaticStage(depth=8, epochs=2, batch=4)
    watch = Watch(within=seen.append)
    trained = train(training(stage), Few(), tmp_path / "c.pt", device=CPU, watch=watch)
    assert [(epoch.number, epoch.of, epoch.step, epoch.steps) for epoch in seen] == [
        (number, 2, step, 3) for number in (1, 2) for step in (1, 2, 3)
    ]
    assert [seen[2].means, seen[5].means] == list(trained.history)
    assert seen[0].means["loss"] > 0


def test_a_stage_is_told_of_every_epoch_and_kept_from_what_is_held_out(tmp_path):
    told, seen = [], set()

    @dataclass(frozen=True, kw_only=True)
    class Telling(StaticStage):
        def begin_epoch(self, target, history):
            super().begin_epoch(target, history)
            told.append(("begin", [sorted(means) for means in history]))

        def loss(self, target, images, labels, moment):
            seen.update(labels.tolist())
            assert len(moment.history) == len(told) // 2
            return super().loss(target, images, labels, moment)

        def end_epoch(self, target, history):
            assert target.training
            told.append(("end", [sorted(means) for means in history]))

        def finish(self, target, held):
            assert not target.training
            told.append(("finish", held.labels.tolist(), held.images([0]).tolist()))
            target.train()  # as who calibrates statistics does

    data = Few(30)
    data.ids = tuple(f"{place:02}" for place in range(len(data)))
    data.labels = torch.arange(30)
    stage = Telling(depth=8, epochs=2, batch=10, held_out=0.1)
    data.classes = tuple(map(str, range(30)))
    trained = train(training(stage), data, tmp_path / "c.pt", device=CPU)
    assert not trained.target.training
    kept = sorted(subset(data, 3))
    means = ["accuracy", "loss"]
    assert told == [
        ("begin", []),
        ("end", [means]),
        ("begin", [means]),
        ("end", [means, means]),
        ("finish", kept, data.images([kept[0]]).tolist()),
    ]
    assert seen == set(range(30)) - set(kept)
    assert [sorted(epoch) for epoch in trained.history] == [means, means]


def test_groups_of_parameters_have_their_own_pace(tmp_path):
    @dataclass(frozen=True, kw_only=True)
    class Halves(StaticStage):
        def groups(self, target):
            slow = [target.fc.weight, target.fc.bias]
            others = [
                value for name, value in target.named_parameters() if not name.startswith("fc.")
            ]
            return [{"params": others}, {"params": slow, "scale": 0.0}]

    stage = Halves(depth=8, epochs=1, batch=10, weight_decay=0.0)
    trained = train(training(stage), Few(), tmp_path / "c.pt", device=CPU).target
    torch.manual_seed(0)
    fresh = stage.build(3)
    assert torch.equal(trained.fc.weight, fresh.fc.weight)
    assert not torch.equal(trained.conv1.weight, fresh.conv1.weight)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU)
    with pytest.raises(RunFolderError, match=r"lr: 0.004 there, 0.1 now") as error:
        train(training(replace(stage, lr=0.1)), Few(), tmp_path / "c.pt", device=CPU)
    assert "seed" not in str(error.value)
    with pytest.raises(RunFolderError, match=r"seed: 0 there, 5 now"):
        train(training(stage, seed=5), Few(), tmp_path / "c.pt", device=CPU)


def test_a_folder_that_another_training_cleared_away_is_made_again(tmp_path):
    folder = tmp_path / "checkpoints"
    stage = StaticStage(depth=8, epochs=2, batch=15)
    watch = Watch(step=lambda done, total: shutil.rmtree(folder, ignore_errors=True))
    train(training(stage), Few(), folder / "c.pt", device=CPU, watch=watch)
    assert (folder / "c.pt").is_file()


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "c.pt"
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage), Few(), path, device=CPU)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"c\.pt is no whole checkpoint"):
        train(training(stage), Few(), path, device=CPU)
    path.write_bytes(b"")
    with pytest.raises(WeightsError, match="--fresh"):
        train(training(stage), Few(), path, device=CPU)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_checkpoint_that_is_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.pt")
    with pytest.raises(WeightsError, match=r"c\.pt is no whole checkpoint: it is no regular file"):
        train(training(StaticStage(depth=8, epochs=1)), Few(), tmp_path / "c.pt", device=CPU)


def test_a_flipped_bit_in_a_checkpoint_is_no_weight(tmp_path):
    path = tmp_path / "c.pt"
    stage = StaticStage(depth=8, epochs=1, batch=30)
    trained = train(training(stage), Few(), path, device=CPU).target
    data = bytearray(path.read_bytes())
    place = data.index(trained.fc.bias.detach().numpy().tobytes())
    data[place + 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match=r"c\.pt is no whole checkpoint: .*Bad CRC-32"):
        train(training(stage), Few(), path, device=CPU)


WRONG = {
    "step": {"step": -1},
    "step-text": {"step": "2"},
    "seconds": {"seconds": float("nan")},
    "history": {"history": '{"loss": 1}'},
    "history-texts": {"history": '[{"loss": "1"}]'},
    "history-numbers": {"history": "[1]"},
    "sums": {"sums": "[1]"},
    "generator": {"generator": torch.zeros(3, dtype=torch.uint8)},
    "target": {"target": {"a": torch.ones(1)}},
    "target-list": {"target": [1]},
    "optimizer": {"optimizer": {"state": {}, "param_groups": []}},
    "training": {"training": "[]"},
    "environment": {"environment": "[]"},
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(its content, its stage)."""
    path = tmp_path_factory.mktemp("training") / "c.pt"
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage), Few(), path, device=CPU)
    return torch.load(path, weights_only=True), stage


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_checkpoint_of_other_content_is_named(tmp_path, checkpoint, wrong):
    content, stage = checkpoint
    torch.save({**content, **wrong}, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match=r"c\.pt is no whole checkpoint"):
        train(training(stage), Few(), tmp_path / "c.pt", device=CPU)


def test_the_state_of_another_optimizer_is_refused(tmp_path, checkpoint):
    content, stage = copy.deepcopy(checkpoint)
    state = content["optimizer"]["state"][0]
    name = next(one for one, value in state.items() if getattr(value, "ndim", 0))
    state[name] = torch.ones(7)
    torch.save(content, tmp_path / "c.pt")
    with pytest.raises(WeightsError, match=f"{name} of the optimizer is .7., its parameter"):
        train(training(stage), Few(), tmp_path / "c.pt", device=CPU)


def test_a_checkpoint_of_other_images_is_refused(tmp_path):
    """All image folders are called one name."""
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage, rows="a"), Few(), tmp_path / "c.pt", device=CPU)
    with pytest.raises(RunFolderError, match=r"rows: 'a' there, 'b' now"):
        train(training(stage, rows="b"), Few(), tmp_path / "c.pt", device=CPU)
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU)


def test_other_threads_are_told(tmp_path, monkeypatch):
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    notes = []
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU, watch=Watch(note=notes.append))
    assert any(
        "not bit for bit" in note and f"threads {threads} -> {threads + 1}" in note
        for note in notes
    )


def test_other_code_is_told(tmp_path, monkeypatch):
    """What was trained half by code that was edited since is no training that can be repeated."""
    from bench.training import checkpoint

    stage, notes = StaticStage(depth=8, epochs=1, batch=30), []
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU)
    monkeypatch.setattr(checkpoint, "source_digest", lambda value: f"other {value}")
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU, watch=Watch(note=notes.append))
    (note,) = [note for note in notes if "not bit for bit" in note]
    assert "-> other targets.recipes.static, network " in note
    assert note.endswith("-> other targets.resnet.network")


def test_a_stage_starts_from_the_weights_it_is_given(tmp_path):
    stage = HybridStage(depth=8, epochs=1, batch=30, lr=1e-12, weight_decay=0.0, temperature=1.0)
    torch.manual_seed(9)
    before = SkipNet(depth=8, num_classes=3)
    after = train(
        training(stage), Few(), tmp_path / "a.pt", start=before.state_dict(), device=CPU
    ).target
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value)
    twin = train(
        training(StaticStage(depth=8, epochs=1)), Few(), tmp_path / "s.pt", device=CPU
    ).target
    train(
        training(stage), Few(), tmp_path / "b.pt", start=twin.state_dict(), device=CPU
    )  # gates stay as drawn
    with pytest.raises(WeightsError, match="another network") as error:
        train(
            training(StaticStage(depth=8, epochs=1)),
            Few(),
            tmp_path / "c.pt",
            start=before.state_dict(),
            device=CPU,
        )
    assert "unexpected: control.proj.weight" in str(error.value)
    with pytest.raises(WeightsError, match=r"misshapen: fc\.weight"):
        train(
            training(stage),
            Few(),
            tmp_path / "d.pt",
            start=SkipNet(depth=8).state_dict(),
            device=CPU,
        )


def test_crops_are_windows_of_the_padded_image():
    images = Few(6).pictures
    seen = augment(images, torch.Generator().manual_seed(0), flip=False)
    assert seen.shape == images.shape
    assert seen.dtype == torch.float32
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4)).float() / 255
    places = set()
    for row in range(6):
        found = [
            (y, x)
            for y in range(9)
            for x in range(9)
            if torch.equal(seen[row], padded[row, :, y : y + 32, x : x + 32])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 1


def test_flips_mirror_about_half_of_the_images():
    images = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    images[..., 12] = 255  # a column left of the middle; crops move it by at most 4
    columns = (
        augment(images, torch.Generator().manual_seed(0), flip=True).sum(2).argmax(-1).flatten()
    )
    mirrored = int((columns > 16).sum())
    assert 70 < mirrored < 130
    assert not bool(
        (augment(images, torch.Generator().manual_seed(0), flip=False).sum(2).argmax(-1) > 16).any()
    )


def test_schedules():
    assert [learning_rate("constant", done) for done in (0.0, 0.99)] == [1.0, 1.0]
    assert [learning_rate("step", done) for done in (0.0, 0.49, 0.5, 0.74, 0.75)] == [
        1.0,
        1.0,
        0.1,
        0.1,
        0.01,
    ]
    reference = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(reference, 1.0, total_steps=1001)
    rates = []
    for _ in range(1000):
        rates.append(reference.param_groups[0]["lr"])
        reference.step()
        cycle.step()
    for step in (0, 150, 300, 600, 999):  # torch counts its phases a step shorter
        assert learning_rate("one-cycle", step / 1000) == pytest.approx(rates[step], abs=4e-3)
    assert learning_rate("one-cycle", 0.3) == pytest.approx(1.0)


def test_devices():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:99", "meta"):
        with pytest.raises(PlanError, match=f"device '{wrong}'"):
            pick_device(wrong)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    stage = StaticStage(depth=8, epochs=2, batch=30, lr=1e30, schedule="constant", optimiser="sgd")
    with pytest.raises(WeightsError, match=r"not finite in epoch [12]"):
        train(training(stage), Few(90), tmp_path / "c.pt", device=CPU)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiskError, match="cannot make"):
        train(training(STAGES[0]), Few(), tmp_path / "file" / "c.pt", device=CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_training_on_cuda(stage, tmp_path):
    target = train(training(stage), Few(), tmp_path / "c.pt", device=torch.device("cuda")).target
    assert next(target.parameters()).device.type == "cpu"
    assert all(bool(torch.isfinite(value).all()) for value in target.state_dict().values())
