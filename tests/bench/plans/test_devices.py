"""What a plan takes by device: the batch that it does not name, and precisions that are refused."""

import pytest
import torch

from bench.errors import PlanError
from bench.plans import devices
from bench.plans.resolve import load_plan

pytestmark = pytest.mark.usefixtures("plugins")

PLAN = """
[protocol]
dataset = "{dataset}"
images = {images}
threat = {{ norm = "linf", eps = "8/255" }}
budget = 9
{more}
[run]
device = "{device}"
[[target]]
use = "toy"
weights = "random:0"
[[attack]]
use = "wander"
"""


@pytest.fixture
def load(tmp_path):
    def make(device, *, images=8, more="", dataset="toy-pixels:test"):
        text = PLAN.format(dataset=dataset, images=images, more=more, device=device)
        (tmp_path / "plan.toml").write_text(text)
        return load_plan(tmp_path / "plan.toml")

    return make


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(devices, "has_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.mark.parametrize(
    ("device", "images", "batch"),
    [
        ("cpu", 1000, 32),
        ("mps", 1000, 32),
        ("auto", 1000, 32),
        ("cuda", 1000, 256),
        ("cuda:1", 256, 256),
        ("cuda", 100, 128),
        ("cuda", 32, 32),
        ("cuda", 1, 32),
    ],
    ids=["cpu", "mps", "auto", "cuda", "one-gpu", "not-filled", "small", "one-image"],
)
def test_the_batch_of_a_device(monkeypatch, device, images, batch):
    monkeypatch.setattr(devices, "has_driver", lambda: False)
    assert devices.default_batch(device, images) == batch


@pytest.mark.usefixtures("gpu")
def test_auto_takes_a_gpu_where_torch_sees_one(monkeypatch):
    assert devices.default_batch("auto", 1000) == 256
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.default_batch("auto", 1000) == 32


def test_a_plan_without_a_batch_is_on_a_cpu_what_it_always_was(load):
    taken, named = load("cpu"), load("cpu", more="batch = 32")
    assert (taken.batch, taken.batch_for, named.batch_for) == (32, "cpu", "")
    assert taken.digest == named.digest
    keys = [plan.cells[0].key("images", "model") for plan in (taken, named)]
    assert keys[0] == keys[1]


def test_on_a_gpu_the_batch_is_another_board(load):
    images = {"images": 96, "dataset": "digits-m:test"}
    here, there = load("cpu", **images), load("cuda", **images)
    assert (there.batch, there.batch_for) == (96, "cuda")
    assert there.cells[0].key("images", "model") != here.cells[0].key("images", "model")
    named = load("cpu", more="batch = 96", **images)
    assert named.digest == there.digest  # as if the plan had named it


def test_commands_say_which_batch_was_taken(load, gatebench, tmp_path):
    load("cpu")
    said = "batch 32, taken for cpu"
    assert said in gatebench("plan", "plan.toml")[1]
    assert said in gatebench("run", "plan.toml", "--in-process", "--no-report")[1]
    load("cpu", more="batch = 4")
    assert "taken for" not in gatebench("plan", "plan.toml")[1]


def test_what_reproduces_a_run_names_the_batch_of_a_gpu(load, tmp_path):
    from bench.cli.options import run_request

    def command(device):
        load(device, images=64, dataset="digits-m:test")
        options = {"only": (), "images": None, "device": None, "overrides": (), "name": None}
        flags = {"data_root": None, "fresh": False, "keep": False, "in_process": False}
        plan = str(tmp_path / "plan.toml")
        return run_request(plan_source=plan, out=tmp_path, **options, **flags).command

    assert "protocol.batch=64" in command("cuda")
    assert "batch" not in command("cpu")


def test_float32_is_no_part_of_a_key(load):
    plain, named = load("cpu"), load("cpu", more='precision = "float32"')
    reduced = load("cpu", more='precision = "bf16"')
    assert plain.digest == named.digest != reduced.digest
    assert "precision" not in plain.cells[0].protocol.document()
    assert reduced.cells[0].protocol.document()["precision"] == "bf16"
    assert "gradients in bf16" in reduced.cells[0].protocol.terms


@pytest.mark.parametrize(
    ("precision", "device", "said"),
    [
        ("tf32", "cpu", 'protocol.precision: "tf32" takes an NVIDIA GPU, and the plan runs on cpu'),
        ("tf32", "mps", "the plan runs on mps"),
        ("bf16", "mps", '"bf16" is not offered on mps'),
        ("fp16", "cpu", "expected 'float32', 'tf32' or 'bf16'"),
    ],
    ids=["tf32-cpu", "tf32-mps", "bf16-mps", "unknown"],
)
def test_a_precision_that_a_device_has_not_is_refused(load, precision, device, said):
    with pytest.raises(PlanError, match=r"protocol\.precision") as caught:
        load(device, more=f'precision = "{precision}"')
    assert said in str(caught.value)
