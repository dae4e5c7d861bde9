"""A shard's rows against an independent evaluation of the images that were saved."""

import io
import json
import math
import pickle
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from bench.api import Attack
from bench.errors import ContractBroken, DiskError, PlanError, PluginError
from bench.evaluation import audit, prepare, shard
from bench.plans.resolve import load_plan
from bench.store.folder import CellFolder
from bench.testing import ToyTarget

pytestmark = pytest.mark.usefixtures("plugins")

PLAN = """
[protocol]
dataset = "{dataset}"
images = {images}
batch = {batch}
threat = {threat}
budget = 12
audit = {audit}
[[target]]
use = "{target}"
weights = "random:3"
{more}
[[attack]]
use = "{attack}"
{params}
"""


@pytest.fixture
def opened(tmp_path):
    def make(attack="wander", *, device="cpu", params="", **options):
        given = {
            "dataset": "toy-pixels:test",
            "images": 6,
            "batch": 4,
            "threat": '{ norm = "psnr", floor = 30 }',
            "audit": 2,
        }
        text = PLAN.format(
            **{**given, "target": "toy", "more": "", **options}, attack=attack, params=params
        )
        (tmp_path / "plan.toml").write_text(text)
        (cell,) = load_plan(tmp_path / "plan.toml").cells
        return prepare.open_cell(cell, torch.device(device), None)

    return make


def batches(cell, *firsts):
    return [row for first in firsts for row in shard.run_batch(cell, first, lambda share: None)]


def pixels(picture):
    return torch.from_numpy(np.asarray(Image.open(io.BytesIO(picture["bytes"]))).copy()).permute(
        2, 0, 1
    )[None]


def test_rows_say_what_the_saved_images_really_are(opened):
    cell = opened()
    rows = batches(cell, 0, 4)
    assert [row["id"] for row in rows] == [cell.dataset.ids[i] for i in cell.indices]
    torch.manual_seed(3)
    target = ToyTarget().eval()
    changed = 0
    for place, row in enumerate(rows):
        index = cell.indices[place]
        clean, saved = pixels(row["image"]), pixels(row["adversarial"])
        assert torch.equal(clean, cell.dataset.images([index]))
        assert row["label"] == int(cell.dataset.labels[index])
        d = saved.long() - clean.long()
        total = int(d.square().sum())
        assert (row["linf"], row["squared"]) == (int(d.abs().max()), total)
        assert row["l2"] == pytest.approx(math.sqrt(total) / 255)
        assert row["psnr"] == pytest.approx(10 * math.log10(255**2 * 192 / total) if total else 120)
        assert total <= 192 * 255**2 / 1000
        for which, picture in (("clean", clean), ("adversarial", saved)):
            with torch.no_grad():
                output = target.execute(picture / 255)
            decisions = np.unpackbits(
                np.frombuffer(row[f"{which}_decisions"], np.uint8), count=3
            ).astype(bool)
            assert decisions.tolist() == output.decisions[0].tolist()
            assert row[f"{which}_macs"] == 7203 + 9472 * int(decisions.sum())
            assert row[f"{which}_prediction"] == int(output.logits.argmax())
        assert (row["evaluations"], row["forwards"], row["backwards"]) == (12, 4, 4)
        assert [point["evaluations"] for point in row["trace"]] == sorted(
            point["evaluations"] for point in row["trace"]
        )
        changed += total > 0
    assert changed == 6


def test_what_supports_was_shown_is_no_target(opened):
    cell = opened("mischief", params='params = { deed = "supports-keeps" }')
    assert len(batches(cell, 0)) == 4
    with pytest.raises(ContractBroken, match=r"supports\(\) evaluates the target"):
        opened("mischief", params='params = { deed = "supports-evaluates" }')


@pytest.mark.parametrize(
    "way", ["by-class", "by-module", "by-weight", "in-losses", "opened"], ids=lambda way: way
)
def test_what_is_evaluated_past_the_view_is_seen(opened, way):
    cell = opened("mischief", params=f'params = {{ deed = "past-the-view-{way}" }}')
    with pytest.raises(ContractBroken, match="past its view"):
        batches(cell, 0)


@dataclass(frozen=True, kw_only=True)
class Editing(Attack):
    """Adds to what it has learned, and moves images by it."""

    def perturb(self, view, images, labels, job):
        return images + job.fitted["step"].add_(0.01)


def test_what_an_attack_writes_into_what_it_learned_reaches_no_other_batch(opened):
    cell, learned = replace(opened(), attack=Editing()), {"step": torch.zeros(())}
    first, again = (shard.run_batch(cell, 0, lambda share: None, learned) for _ in range(2))
    assert first == again
    assert learned["step"] == 0


def test_a_short_batch_is_padded_and_leaves_no_trace_of_it(opened):
    whole, short = opened(images=8, batch=4), opened(images=5, batch=4)
    assert [len(batches(short, first)) for first in (0, 4)] == [4, 1]
    assert batches(whole, 0) == batches(short, 0), "a batch does not know of the others"
    assert batches(short, 4)[0]["id"] == batches(whole, 4)[0]["id"]


def test_clean_columns_do_not_depend_on_the_batch(opened):
    names = "id label clean_prediction clean_macs clean_decisions".split()
    one, many = batches(opened(batch=1), *range(6)), batches(opened(batch=6), 0)
    assert [[row[name] for name in names] for row in one] == [
        [row[name] for name in names] for row in many
    ]


def test_order_and_repetition_change_nothing_even_for_who_draws_from_the_global_stream(opened):
    for attack in ("gambler", "wander", "black-box"):
        cell = opened(attack)
        forwards, backwards = batches(cell, 0, 4), batches(cell, 4, 0)
        torch.rand(17)
        assert backwards == forwards[4:] + forwards[:4]
        assert batches(cell, 0) == forwards[:4]


def test_another_seed_is_another_draw(opened, tmp_path):
    first = batches(opened("black-box"), 0)
    plan = (tmp_path / "plan.toml").read_text().replace("budget = 12", "budget = 12\nseeds = [1]")
    assert plan.count("seeds") == 1
    second = batches(opened("black-box", threat='{ norm = "psnr", floor = 30 }\nseeds = [1]'), 0)
    assert [row["id"] for row in first] == [row["id"] for row in second]
    assert first != second


def test_audited_rows_are_counted(opened, monkeypatch):
    prepare._Last.forget()  # another test's, of the same target
    audited = []
    real = audit.cost.audit
    monkeypatch.setattr(
        audit.cost,
        "audit",
        lambda target, image, *rest: audited.append(1) or real(target, image, *rest),
    )
    batches(opened(audit=2), 0, 4)
    assert len(audited) == 4 + 2 * 2, (
        "an image before and after forward saw it, two extremes, two images clean and adversarial"
    )
    audited.clear()
    batches(opened(audit=6), 0, 4)
    assert len(audited) == 4 + 2 * 6


def test_a_lie_that_shows_on_adversarial_images_only_is_found(opened, monkeypatch):
    """Honest while it is opened, honest about every clean image, and found out where an attack
    leads it."""
    still = opened("still", audit=6)
    cell = opened(threat='"none"', params="params = { step = 0.3, start = 0.3 }", audit=6)
    honest, rows = type(cell.target).macs, batches(cell, 0, 4)
    new = {row["adversarial_decisions"] for row in rows} - {row["clean_decisions"] for row in rows}
    assert new, "the attack reaches decisions that no clean image takes"
    pattern = torch.from_numpy(
        np.unpackbits(np.frombuffer(min(new), np.uint8), count=3).astype(bool)
    )
    monkeypatch.setattr(
        type(cell.target), "macs", lambda self, d: honest(self, d) - (d == pattern).all(1).long()
    )
    assert len(batches(still, 0, 4)) == 6, "on clean images the lie does not show"
    with pytest.raises(ContractBroken, match="but ptflops counts"):
        batches(cell, 0, 4)


def leave_function_mode():
    class Other(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            return found * 1.5 if "conv" in getattr(func, "__name__", "") else found

    Other().__enter__()


def leave_dispatch_mode():
    class Other(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            return found * 1.5 if "convolution" in str(func) else found

    Other().__enter__()


def leave_module_hook():
    torch.nn.modules.module.register_module_forward_hook(
        lambda module, given, found: found * 1.5 if isinstance(module, torch.nn.Conv2d) else None
    )


def leave_saved_tensor_hooks():
    torch.autograd.graph.saved_tensors_hooks(
        lambda saved: saved * 1.5, lambda kept: kept
    ).__enter__()


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(leave_function_mode, id="function-mode"),
        pytest.param(leave_dispatch_mode, id="dispatch-mode"),
        pytest.param(leave_module_hook, id="module-hook"),
        pytest.param(leave_saved_tensor_hooks, id="saved-tensor-hooks"),
    ],
)
def test_what_an_attack_leaves_open_in_torch_changes_no_row(opened, monkeypatch, leave):
    honest = batches(opened("still"), 0, 4)
    cell = opened("still")

    def perturb(self, view, images, labels, job):
        leave()
        return images

    monkeypatch.setattr(type(cell.attack), "perturb", perturb)
    assert batches(cell, 0, 4) == honest


def test_an_attack_that_replaces_a_method_of_torch_is_found_out(opened, monkeypatch):
    cell, honest = opened("still"), torch.nn.Linear.forward

    def perturb(self, view, images, labels, job):
        monkeypatch.setattr(torch.nn.Linear, "forward", lambda self, x: honest(self, x) * 1.5)
        return images

    monkeypatch.setattr(type(cell.attack), "perturb", perturb)
    with pytest.raises(ContractBroken, match="are scored otherwise after still than before"):
        batches(cell, 0)


def test_what_does_not_fit_is_refused(opened):
    with pytest.raises(
        PlanError, match=r"takes images of \(3, 8, 8\), digits-m:test has \(3, 32, 32\)"
    ):
        opened(dataset="digits-m:test")
    with pytest.raises(prepare.Unsupported, match="mischief does not fork"):
        opened("mischief", params='params = { deed = "fork" }')
    with pytest.raises(PluginError, match=r"no bench\.api\.Attack"):
        opened("unmade")
    with pytest.raises(ContractBroken, match="ptflops counts 35619"):
        opened(target="liar", more='params = { lie = "mask" }')


def test_errors_travel_between_processes():
    for error in (
        DiskError("full", hint="free some"),
        PlanError(["a", "b"], hint="c"),
        ContractBroken("x"),
    ):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.hint, again.exit_code) == (
            type(error),
            str(error),
            error.hint,
            error.exit_code,
        )


def test_seeded_weights_leave_the_global_stream_alone(opened):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    with torch.random.fork_rng(devices=[]):
        opened()
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_cell_on_cuda_keeps_the_contracts(opened, tmp_path):
    from bench.store.provenance import deterministic, resolve_devices

    (device, *_) = resolve_devices("auto")
    assert device.type == "cuda", "auto takes the GPU that is there"
    deterministic(1)
    cell = opened(device="cuda", images=8)
    rows = batches(cell, 0, 4)
    assert rows == batches(cell, 0, 4)
    assert [row["clean_macs"] for row in rows] == [
        row["clean_macs"] for row in batches(opened(images=8), 0, 4)
    ]
    assert next(cell.target.parameters()).device.type == "cuda"
    folder = CellFolder(tmp_path)
    shard.run_shard(cell, folder, 0, 7, lambda *ignored: None)
    assert "cpu" not in json.dumps(folder.shards()[0].record["device"]).lower()


def test_the_judge_knows_nothing_of_the_precision_of_gradients(opened, monkeypatch):
    """Attacked in bfloat16: what rows hold is what float32 says of the saved images."""
    seen = []
    forward = ToyTarget.forward

    def noted(self, *args):
        seen.append(torch.is_autocast_enabled("cpu"))
        return forward(self, *args)

    monkeypatch.setattr(ToyTarget, "forward", noted)
    cell = opened("gradauto", audit='2\nprecision = "bf16"')
    assert not any(seen)
    rows = batches(cell, 0)
    assert any(seen)
    del seen[:]
    torch.manual_seed(3)
    target = ToyTarget().eval()
    for row in rows:
        output = target(pixels(row["adversarial"]).float() / 255)
        assert int(target.macs(output.decisions)) == row["adversarial_macs"]
    assert not any(seen)
