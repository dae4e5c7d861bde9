"""The training loop: crops, schedules, checkpoints that go on bit for bit, and the numbers in the manifest."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bench.errors import DiskError, PlanError, RunFolderError, WeightsError
from bench.training import Training, Watch, augment, learning_rate, measure, pick_device, train
from targets.recipes.skipnet import BudgetStage, HybridStage, StaticStage
from targets.skipnet import SkipNet

CPU = torch.device("cpu")


class Few:
    """Thirty images of noise in three classes."""

    name, split, classes, flip_allowed = "few", "train", ("a", "b", "c"), True

    def __init__(self, count=30):
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
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


STAGES = [
    StaticStage(depth=8, epochs=3, batch=10),
    BudgetStage(depth=8, epochs=3, batch=12, optimiser="sgd", schedule="step"),
    HybridStage(depth=8, epochs=3, batch=12, schedule="constant"),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: type(stage).__name__)
def test_an_interrupted_training_ends_in_the_same_bits(stage, tmp_path):
    whole, _ = train(training(stage), Few(), tmp_path / "whole.pt", device=CPU)

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
    resumed, seconds = train(training(stage), Few(), tmp_path / "cut.pt", device=CPU, watch=watch)
    assert epochs == [2, 3]
    assert notes == ["going on after epoch 1"]
    assert same(whole, resumed)
    assert not resumed.training
    assert seconds > 0
    other, _ = train(training(stage, seed=1), Few(), tmp_path / "other.pt", device=CPU)
    assert not same(whole, other)


def test_a_killed_training_goes_on(tmp_path):
    script = f"""
import os, signal, sys, torch
sys.path.insert(0, {os.path.dirname(__file__)!r})
from pathlib import Path
from test_training import CPU, Few, STAGES, training, train, Watch
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
    resumed, _ = train(training(STAGES[0]), Few(), tmp_path / "killed.pt", device=CPU, watch=Watch(note=notes.append))
    assert notes == ["going on after epoch 1"]
    whole, _ = train(training(STAGES[0]), Few(), tmp_path / "whole.pt", device=CPU)
    assert same(whole, resumed)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU)
    with pytest.raises(RunFolderError, match=r"lr: 0.004 there, 0.1 now") as error:
        train(training(replace(stage, lr=0.1)), Few(), tmp_path / "c.pt", device=CPU)
    assert "seed" not in str(error.value)
    with pytest.raises(RunFolderError, match=r"seed: 0 there, 5 now"):
        train(training(stage, seed=5), Few(), tmp_path / "c.pt", device=CPU)


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


def test_other_threads_are_told(tmp_path, monkeypatch):
    stage = StaticStage(depth=8, epochs=1, batch=30)
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU)
    threads = torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    notes = []
    train(training(stage), Few(), tmp_path / "c.pt", device=CPU, watch=Watch(note=notes.append))
    assert any("not bit for bit" in note and f"threads {threads} -> {threads + 1}" in note for note in notes)


def test_a_stage_starts_from_the_weights_it_is_given(tmp_path):
    stage = HybridStage(depth=8, epochs=1, batch=30, lr=1e-12, weight_decay=0.0, temperature=1.0)
    torch.manual_seed(9)
    before = SkipNet(depth=8, num_classes=3)
    after, _ = train(training(stage), Few(), tmp_path / "a.pt", start=before.state_dict(), device=CPU)
    for name, value in before.state_dict().items():
        torch.testing.assert_close(after.state_dict()[name], value)
    twin, _ = train(training(StaticStage(depth=8, epochs=1)), Few(), tmp_path / "s.pt", device=CPU)
    train(training(stage), Few(), tmp_path / "b.pt", start=twin.state_dict(), device=CPU)  # gates stay as drawn
    with pytest.raises(WeightsError, match="another network") as error:
        train(training(StaticStage(depth=8, epochs=1)), Few(), tmp_path / "c.pt", start=before.state_dict(), device=CPU)
    assert "unexpected: control.proj.weight" in str(error.value)
    with pytest.raises(WeightsError, match=r"misshapen: fc\.weight"):
        train(training(stage), Few(), tmp_path / "d.pt", start=SkipNet(depth=8).state_dict(), device=CPU)


def test_crops_are_windows_of_the_padded_image():
    images = Few(6).pictures
    seen = augment(images, torch.Generator().manual_seed(0), flip=False)
    assert seen.shape == images.shape
    assert seen.dtype == torch.float32
    padded = torch.nn.functional.pad(images, (4, 4, 4, 4)).float() / 255
    places = set()
    for row in range(6):
        found = [(y, x) for y in range(9) for x in range(9) if torch.equal(seen[row], padded[row, :, y : y + 32, x : x + 32])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 1


def test_flips_mirror_about_half_of_the_images():
    images = torch.zeros(200, 1, 32, 32, dtype=torch.uint8)
    images[..., 12] = 255  # a column left of the middle; crops move it by at most 4
    columns = augment(images, torch.Generator().manual_seed(0), flip=True).sum(2).argmax(-1).flatten()
    mirrored = int((columns > 16).sum())
    assert 70 < mirrored < 130
    assert not bool((augment(images, torch.Generator().manual_seed(0), flip=False).sum(2).argmax(-1) > 16).any())


def test_schedules():
    assert [learning_rate("constant", done) for done in (0.0, 0.99)] == [1.0, 1.0]
    assert [learning_rate("step", done) for done in (0.0, 0.49, 0.5, 0.74, 0.75)] == [1.0, 1.0, 0.1, 0.1, 0.01]
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


def test_measured_by_hand():
    spent = torch.tensor([100, 60, 60, 20])
    decisions = torch.tensor([[1, 1, 1], [1, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=torch.bool)

    class Told(torch.nn.Module):
        ceiling = 100

        def forward(self, images):
            rows = (images[:, 0, 0, 0] * 255).round().long()
            return SimpleNamespace(logits=torch.nn.functional.one_hot(rows % 3, 3).float(), decisions=decisions[rows])

        def macs(self, decisions):
            return 20 + 40 * decisions[:, 1:].sum(1)

    data = SimpleNamespace(
        labels=torch.tensor([0, 1, 2, 1]), images=lambda rows: torch.tensor(list(rows)).view(-1, 1, 1, 1).to(torch.uint8)
    )
    data = type("Data", (), {"__len__": lambda self: 4, "labels": data.labels, "images": staticmethod(data.images)})()
    found = measure(Told(), data, batch=3)
    assert found.accuracy == 0.75
    assert found.clean_saving == pytest.approx(0.4)
    assert found.spread == pytest.approx(float(spent.double().std(correction=0)) / 100, abs=1e-6)
    assert found.opening_rates == (1.0, 0.5, 0.5)
    assert found.gates_varying == 2
    assert found.ceiling == 100


def test_devices():
    assert pick_device("cpu") == CPU
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for wrong in ("gpu", "cuda:99"):
        with pytest.raises(PlanError, match=f"--device {wrong}"):
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
    target, _ = train(training(stage), Few(), tmp_path / "c.pt", device=torch.device("cuda"))
    assert next(target.parameters()).device.type == "cpu"
    assert all(bool(torch.isfinite(value).all()) for value in target.state_dict().values())
