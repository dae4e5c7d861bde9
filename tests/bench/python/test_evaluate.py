"""`bench.evaluate` and its neighbors: names, objects and bare modules, judged as in a run."""

import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import timm
import torch
from torch import nn

import bench
from attacks.controls import Identity
from attacks.gradauto import GradAuto
from bench.api import Attack, Output
from bench.errors import (
    ContractBroken,
    DataError,
    PlanError,
    RunFolderError,
    UnknownName,
)
from bench.evaluation import kept_state
from bench.plans.resolve import resolve_document
from bench.python.images import GivenImages
from bench.python.module import as_target
from bench.store import precision
from bench.testing import ToyTarget, sample_images
from targets.defenses.transforms import BitDepth

LINF = {"norm": "linf", "eps": "8/255"}
IMAGES = sample_images((3, 8, 8), 8)
TOY = {"batch": 4, "device": "cpu", "budget": 20, "threat": LINF}


class Bare(nn.Module):
    """A module that has what a target has, and derives from nothing of gatebench."""

    def __init__(self):
        super().__init__()
        self.inner = ToyTarget()
        self.units, self.image_shape, self.classes = self.inner.units, (3, 8, 8), 4

    def forward(self, images, decisions=None):
        return self.inner(images, decisions)

    def execute(self, image, decisions=None):
        return self.inner.execute(image, decisions)

    def macs(self, decisions):
        return self.inner.macs(decisions)


@pytest.fixture(autouse=True, scope="module")
def other_tests_keep_nothing():
    """Classes of this module are in one package with all tests; what all of those modules keep is
    not looked at, which takes seconds a call. `test_kept_state` is about it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kept_state, "_OWN", kept_state._OWN | {__name__.partition(".")[0]})
        yield


@pytest.fixture(scope="module")
def result():
    return bench.evaluate(ToyTarget(), ["identity", GradAuto()], IMAGES, **TOY)


def test_numbers_are_those_of_the_saved_images(result):
    """Recovery and savings by hand from the rows, and the rows by evaluating the pictures again."""
    assert [cell.attack for cell in result.cells] == ["identity", "GradAuto"]
    assert result.cell("identity").recovery.value == 0.0
    rows = result.rows()
    ceiling = 7203 + 3 * 9472
    won = (rows["adversarial_macs"] - rows["clean_macs"]).sum()
    assert result.recovery.value == pytest.approx(won / (ceiling - rows["clean_macs"]).sum())
    assert result.recovery.low <= result.recovery.value <= result.recovery.high
    assert result.surviving_saving.value == pytest.approx(
        1 - rows["adversarial_macs"].mean() / ceiling
    )
    assert won > 0
    assert rows["linf"].max() <= 8
    for row in result.strongest.rows():
        again = ToyTarget()(torch.from_numpy(_pixels(row.adversarial))[None].float() / 255)
        assert int(ToyTarget().macs(again.decisions)) == row.adversarial_macs


def _pixels(png):
    import io

    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png))).transpose(2, 0, 1).copy()


def test_the_rows_are_a_table(result):
    rows = result.rows()
    assert len(rows) == 8
    assert set(rows["id"]) == {f"image-{place}" for place in range(8)}
    one = next(iter(rows))
    assert one["adversarial_units"] >= one["clean_units"] >= 0
    assert rows.arrow().num_rows == 8
    assert repr(rows).splitlines()[0].split()[:2] == ["id", "label"]
    assert rows._repr_html_().count("<tr>") == 9
    assert result.rows("identity")["adversarial_macs"].tolist() == rows["clean_macs"].tolist()


def test_pictures_show_clean_adversarial_and_difference(result):
    row = result.strongest.some_rows([0])[0]
    picture = np.asarray(result.picture(0, width=8))
    assert picture.shape == (8, 3 * 8 + 2 * 4, 3)
    assert (picture[:, :8] == _pixels(row.image).transpose(1, 2, 0)).all()
    assert (picture[:, 12:20] == _pixels(row.adversarial).transpose(1, 2, 0)).all()
    assert (np.asarray(result.picture(row.id, width=8)) == picture).all()
    unchanged = np.asarray(result.picture(0, "identity", width=8))
    assert (unchanged[:, 24:] == 128).all()
    assert result.picture(0).size[0] > 3 * 192
    with pytest.raises(KeyError, match="no image has the id 'x'"):
        result.picture("x")
    with pytest.raises(IndexError):
        result.picture(8)
    with pytest.raises(KeyError, match="0 cells are called 'nes'"):
        result.cell("nes")


def test_it_shows_itself_shortly_and_in_a_notebook(result):
    assert len(repr(result)) < 160
    assert "GradAuto: recovery" in repr(result)
    shown = result._repr_html_()
    assert shown.count("<img ") == 3
    assert "data:image/png;base64," in shown
    assert "<td>identity (control)</td>" in shown
    assert "the clean predictions stand in for them" in shown
    assert "<script" not in shown


def test_what_a_notebook_shows_is_escaped():
    @dataclass(frozen=True, kw_only=True)
    class Sly(Attack):
        note: str = "none"

        def perturb(self, view, images, labels, job):
            return images

    shown = bench.evaluate(ToyTarget(), Sly(note="<img src=x>"), IMAGES[:2], **TOY)._repr_html_()
    assert "<img src=x>" not in shown
    assert "Sly note=&lt;img src=x&gt;" in shown


def test_a_bare_module_is_a_target_like_any_other(result):
    module = Bare()
    module.train()
    found = bench.evaluate(module, GradAuto(), IMAGES, **TOY)
    assert found.recovery == result.recovery
    assert found.rows()["adversarial_macs"].tolist() == result.rows()["adversarial_macs"].tolist()
    assert "Bare / GradAuto" in repr(found)
    assert module.training, "what was handed over stays as it is"
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_labels_and_bytes_are_taken_as_they_are(result):
    saved = (IMAGES * 255).round().to(torch.uint8)
    labels = torch.arange(8) % 4
    found = bench.evaluate(ToyTarget(), "identity", (saved.numpy(), labels), **TOY)
    rows = {row["id"]: row["label"] for row in found.rows()}
    assert [rows[f"image-{place}"] for place in range(8)] == labels.tolist()
    assert found.clean_accuracy.value < 1 == result.clean_accuracy.value
    assert "stand in" not in found.boards[0].dataset_note


def test_every_pass_is_computed_as_a_run_computes():
    """The predictions that stand in for labels too: threads of torch that they started would leave
    a process that is forked later waiting for them."""
    seen = set()

    class Watching(ToyTarget):
        def forward(self, images, decisions=None):
            products = torch.backends.mkldnn.matmul.fp32_precision
            seen.add((torch.get_num_threads(), products, torch.get_deterministic_debug_mode()))
            return super().forward(images, decisions)

    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with precision.precision_kept():
            torch.set_float32_matmul_precision("medium")
            bench.evaluate(Watching(), "identity", IMAGES, **TOY)
            assert torch.get_float32_matmul_precision() == "medium"
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert seen == {(1, "ieee", 1)}


def test_defenses_as_names_and_objects():
    named = bench.evaluate(
        ToyTarget(), GradAuto(), IMAGES, defense={"use": "bit-depth", "params": {"bits": 3}}, **TOY
    )
    given = bench.evaluate(ToyTarget(), GradAuto(), IMAGES, defense=BitDepth(bits=3), **TOY)
    assert [cell.defense for cell in given.cells] == ["BitDepth"]
    assert [cell.defense for cell in named.cells] == ["bit-depth bits=3"]
    assert named.rows()["adversarial_macs"].tolist() == given.rows()["adversarial_macs"].tolist()


def test_a_run_can_be_kept_and_opened(tmp_path):
    found = bench.evaluate(ToyTarget(), "identity", IMAGES, folder=tmp_path / "kept", **TOY)
    assert found.folder == tmp_path / "kept"
    again = bench.open_run(tmp_path / "kept")
    assert again.recovery == found.recovery
    assert bench.open_board(tmp_path / "kept").cells[0].attack == "identity"
    with pytest.raises(PlanError, match="has 1 board, so there is no number 2"):
        bench.open_board(tmp_path / "kept", 2)
    with pytest.raises(RunFolderError, match="there is no run"):
        bench.open_run(tmp_path / "nothing")


def test_an_attack_that_breaks_its_contract_is_told_with_its_traceback():
    @dataclass(frozen=True, kw_only=True)
    class Broken(Attack):
        def perturb(self, view, images, labels, job):
            return self.nothing_like_that

    with pytest.raises(bench.errors.GatebenchError, match="has no attribute") as found:
        bench.evaluate(ToyTarget(), Broken(), IMAGES, **TOY)
    assert "in perturb" in "".join(found.value.__notes__)

    @dataclass(frozen=True, kw_only=True)
    class Greedy(Attack):
        def perturb(self, view, images, labels, job):
            while True:
                view(images, torch.arange(len(images)))

    with pytest.raises(ContractBroken, match="catch BudgetSpent"):
        bench.evaluate(ToyTarget(), Greedy(), IMAGES, **TOY)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        pytest.param(
            (nn.Linear(2, 2), "identity", IMAGES),
            ContractBroken,
            "without units, image_shape",
            id="plain-module",
        ),
        pytest.param((3, "identity", IMAGES), ContractBroken, "int is no torch.nn.Module", id="no-module"),
        pytest.param(("nothing@here", "identity", IMAGES), UnknownName, "nothing@here", id="unknown-weights"),
        pytest.param((ToyTarget(), "gradato", IMAGES), PlanError, "did you mean 'gradauto'", id="unknown-attack"),
        pytest.param((ToyTarget(), 3.5, IMAGES), PlanError, "attack: expected a name", id="no-attack"),
        pytest.param((ToyTarget(), [3.5], IMAGES), PlanError, "attack: expected a name", id="no-attack-in-a-list"),
        pytest.param((ToyTarget(), "identity", IMAGES * 3), DataError, "expected \\[0,1\\]", id="out-of-range"),
        pytest.param((ToyTarget(), "identity", IMAGES.clamp(0, 0.5) + 0.5001), DataError, "and 1.0001", id="a-hair-out-of-range"),
        pytest.param((ToyTarget(), "identity", IMAGES[0]), DataError, "expected \\(N, C, H, W\\)", id="one-image"),
        pytest.param(
            (ToyTarget(), "identity", (IMAGES, torch.full((8,), 4))),
            DataError,
            "labels lie between 4 and 4",
            id="labels",
        ),
        pytest.param((ToyTarget(), "identity", (IMAGES,)), DataError, "a pair is", id="one-of-a-pair"),
        pytest.param((ToyTarget(), "identity", (IMAGES, "ab")), DataError, "makes no tensor", id="letters"),
        pytest.param((ToyTarget(), "identity", IMAGES.to_sparse()), DataError, "sparse", id="sparse"),
        pytest.param((ToyTarget(), "identity", IMAGES.to("meta")), DataError, "makes no tensor", id="meta"),
        pytest.param((ToyTarget(), "identity", None), DataError, "NoneType", id="no-images"),
        pytest.param((ToyTarget(), "identity", sample_images((3, 16, 16))), PlanError, "takes images of", id="size"),
        pytest.param((ToyTarget(), "identity", "digits:test"), UnknownName, "did you mean 'digits-m'", id="data-set"),
        pytest.param((ToyTarget(), "gradmdm:code", IMAGES), PlanError, "do not run here", id="skipped"),
    ],
)  # fmt: skip
def test_mistakes_lead_on(arguments, error, said):
    with pytest.raises(error, match=said):
        bench.evaluate(*arguments, **TOY)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        pytest.param({"threads": 0}, "threads: expected a whole number of at least 1, got 0", id="threads"),
        pytest.param({"batch": 2.0}, "batch: expected a whole number", id="batch"),
        pytest.param({"count": 0}, "count: expected a whole number", id="count"),
        pytest.param({"count": True}, "count: expected a whole number", id="count-true"),
        pytest.param({"seed": 2**64}, r"protocol.seeds\[0\]: a whole number beyond 64 bits", id="seed"),
        pytest.param({"folder": 5}, "folder: expected the path of a folder, got 5", id="folder"),
        pytest.param({"data_root": 5}, "data_root: expected the path of a folder", id="data-root"),
    ],
)  # fmt: skip
def test_options_are_looked_at_before_anything_is_computed(option, said):
    with pytest.raises(PlanError, match=said):
        bench.evaluate(ToyTarget(), "identity", IMAGES, **{**TOY, **option})


@pytest.mark.parametrize(
    "given",
    [
        pytest.param(list(IMAGES), id="list-of-tensors"),
        pytest.param(IMAGES.numpy().astype(">f4"), id="other-byte-order"),
        pytest.param(IMAGES.flip(0).numpy()[::-1], id="reversed"),
    ],
)
def test_images_are_taken_as_programs_hold_them(given):
    found = GivenImages(given, classes=4).images(range(8))
    assert torch.equal(found, (IMAGES * 255).round().to(torch.uint8))


def test_a_plan_that_a_program_holds_is_taken_as_a_file_would_be():
    """With tuples and numbers of numpy, which a loop over settings has; and left as it is."""
    plan = {
        "protocol": {
            "dataset": "digits-m:test",
            "images": np.int64(2),
            "threat": {"norm": "psnr", "floor": np.float32(35)},
            "budget": np.int32(3),
        },
        "target": ({"use": "skipnet", "weights": "skipnet-20-budget@digits-m"},),
        "attack": [{"use": "identity", "label": "a\ud800"}, {"use": "ilfo", "params": {"lr": 10**400}}],
    }  # fmt: skip
    around = {"protocol": plan["protocol"]}
    around["run"] = around
    often = {"protocol": plan["protocol"]}
    often |= {f"run{i}": often for i in range(10)}
    for wrong, said in [
        (plan, r"attack\[0\].label: half of a surrogate pair"),
        (plan, r"attack\[1\].params.lr: a whole number beyond 64 bits"),
        (around, "nested deeper than 12"),
        (often, "more than 200,000 values"),
    ]:
        with pytest.raises(PlanError, match=said):
            resolve_document(wrong, "a program")
    assert around["run"] is around
    good = resolve_document({**plan, "attack": ({"use": "identity"},)}, "a program")
    assert (good.cells[0].protocol.images, good.cells[0].protocol.budget) == (2, 3)
    assert plan["attack"][1]["params"]["lr"] == 10**400


def test_names_go_the_way_of_a_run(tmp_path, monkeypatch):
    """The same rows, byte for byte, as a run of the same plan."""
    monkeypatch.chdir(tmp_path)
    terms = {"threat": LINF, "budget": 8, "batch": 2}
    skipnet = {"use": "skipnet", "params": {"depth": 8}, "weights": "random:0"}
    found = bench.evaluate(skipnet, "gradauto", count=2, device="cpu", **terms)
    plan = {
        "schema": 1,
        "protocol": {"dataset": "digits-m:test", "images": 2, "audit": 2, **terms},
        "run": {"device": "cpu"},
        "target": [skipnet],
        "attack": [{"use": "gradauto"}],
    }
    run = bench.run(plan, name="same", in_process=True)
    assert run.folder.resolve() == tmp_path / "runs" / "same"
    assert run.problems == ()
    shards = [next(each.folder.glob("cells/*/shard-*")) for each in (found, run)]
    assert shards[0].read_bytes() == shards[1].read_bytes()
    with pytest.raises(PlanError, match="a plan that is no file"):
        bench.run(plan, images=3)


def test_training_images_are_attacked_by_what_learns_nothing():
    """The fit split is the train split unless a plan says otherwise; nothing here is fitted."""
    skipnet = {"use": "skipnet", "params": {"depth": 8}, "weights": "random:0"}
    terms = {"count": 2, "batch": 2, "budget": 8, "device": "cpu"}
    found = bench.evaluate(skipnet, "identity", "digits-m:train", **terms)
    assert found.recovery.value == 0
    with pytest.raises(PlanError, match="'train' is the split that is scored, and universal learn"):
        bench.evaluate(skipnet, ["identity", "universal"], "digits-m:train", **terms)


def test_a_data_root_may_be_text(tmp_path):
    """As for the commands; what is wrong there is said about the data, not about the type."""
    with pytest.raises(DataError, match="nothing"):
        bench.open_dataset("imagefolder:test", str(tmp_path / "nothing"))


def test_targets_are_loaded_by_name():
    network = bench.load_target({"use": "skipnet", "params": {"depth": 8}, "weights": "random:0"})
    assert not network.training
    assert isinstance(network(torch.rand(2, 3, 32, 32)), Output)
    defended = bench.load_target(
        {"use": "skipnet", "params": {"depth": 8}, "weights": "random:0"}, defense="bit-depth"
    )
    assert defended.undefended.ceiling == network.ceiling
    with pytest.raises(PlanError, match="learns from images of a plan first"):
        bench.load_target("skipnet-20-budget@digits-m", defense="monitor")


def test_torch_is_given_back_as_it_was():
    torch.manual_seed(7)
    state, before = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    try:
        for mode in (False, True):
            torch.use_deterministic_algorithms(mode)
            bench.evaluate(ToyTarget(), Identity(), IMAGES[:2], **TOY)
            assert torch.equal(torch.get_rng_state(), state)
            assert torch.are_deterministic_algorithms_enabled() is mode
    finally:
        torch.use_deterministic_algorithms(before)


def numbers(result):
    return [(cell.label, cell.adversarial_macs, cell.psnr, cell.ssim) for cell in result.cells]


def measured(seed=0):
    attacks = [GradAuto(), "noise"]
    return numbers(bench.evaluate(TARGETS[seed], attacks, IMAGES[:6], **TOY))


TARGETS = [ToyTarget(seed=seed) for seed in range(2)]
"""Made before a test changes what torch makes."""


def test_threads_wait_for_each_other():
    alone = [measured(seed) for seed in range(2)]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(measured, range(2))) == alone
    assert [measured(seed) for seed in range(2)] == alone


def bf16(backends):
    backends.fp32_precision = "bf16"
    backends.mkldnn.conv.fp32_precision = backends.mkldnn.matmul.fp32_precision = "bf16"


def tf32(backends):
    backends.cuda.matmul.fp32_precision = backends.cudnn.conv.fp32_precision = "tf32"


def older(backends):
    backends.cuda.matmul.allow_tf32 = backends.cudnn.allow_tf32 = True


@pytest.mark.parametrize("changed", [None, bf16, tf32, older], ids=["no", "bf16", "tf32", "older"])
def test_precision_is_float32_whatever_the_program_computes_in(changed):
    """By all switches of torch, which are given back as they were."""
    seen = []

    class Sees(Identity):
        def perturb(self, view, images, labels, job):
            seen.extend(place.fp32_precision for place in precision._newer())
            return super().perturb(view, images, labels, job)

    with precision.precision_kept():
        if changed is not None:
            changed(torch.backends)
        before = [place.fp32_precision for place in precision._newer()]
        allowed = changed in (None, older) and torch.backends.cudnn.allow_tf32  # or it raises
        bench.evaluate(ToyTarget(), Sees(), IMAGES[:2], **TOY)
        assert set(seen) == {"ieee"}
        assert [place.fp32_precision for place in precision._newer()] == before
        if changed in (None, older):
            assert torch.backends.cudnn.allow_tf32 == allowed
            assert torch.backends.cuda.matmul.allow_tf32 is (changed is older)


def test_it_may_be_called_where_no_gradients_are_taken():
    alone = measured()
    for context in (torch.inference_mode(), torch.no_grad()):
        with context:
            assert measured() == alone


def test_other_streams_go_on_as_if_nothing_had_been_drawn():
    drawn = []
    for called in (False, True):
        np.random.seed(3)
        random.seed(3)
        if called:
            measured()
        drawn.append((np.random.rand(), random.random()))
    assert drawn[0] == drawn[1]


MAIN = """
import bench
print("began", flush=True)
bench.run({plan}, name="a", out={out!r})
print("ended")
"""


@pytest.mark.slow  # a script of its own, with workers
@pytest.mark.parametrize(
    "how", ["guarded", "unguarded", "from-stdin", "removed"], ids=lambda how: how
)
def test_a_script_without_a_main_guard_is_told_what_helps(how, tmp_path, child_environment):
    """One that lies in no file cannot be run again by a worker, so it needs no guard."""
    plan = {
        "protocol": {
            "dataset": "digits-m:test",
            "images": 2,
            "batch": 2,
            "threat": LINF,
            "budget": 3,
        },
        "run": {"device": "cpu"},
        "target": [{"use": "skipnet", "params": {"depth": 8}, "weights": "random:0"}],
        "attack": [{"use": "identity"}],
    }
    code = MAIN.format(plan=json.dumps(plan), out=str(tmp_path / "runs"))
    if how == "guarded":
        code = 'if __name__ == "__main__":\n' + "".join(
            f"    {line}\n" for line in code.splitlines()
        )
    if how == "removed":
        code = "import os\nos.remove(__file__)\n" + code
    (tmp_path / "script.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "-" if how == "from-stdin" else "script.py"],
        cwd=tmp_path,
        env=child_environment(),
        input=code if how == "from-stdin" else None,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if how != "unguarded":
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["began", "ended"]
        return
    assert done.returncode == 1
    assert "put what the script does under 'if __name__ == \"__main__\":'" in done.stderr
    assert done.stderr.count("Traceback") == 1


LIGHT = """
import sys
before = set(sys.modules)
import bench
assert callable(bench.__getattr__)
assert {"evaluate", "run", "open_run", "open_board", "load_target"} <= set(dir(bench))
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(new - set(sys.stdlib_module_names)))
"""


def test_importing_bench_imports_nothing_else(child_environment):
    done = subprocess.run(
        [sys.executable, "-S", "-c", LIGHT],
        env=child_environment(PYTHONPATH=str(bench.__path__[0] + "/..")),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["bench"]


def test_what_bench_offers_is_listed_once():
    assert set(bench.__all__) == set(bench._LAZY)
    for name in bench.__all__:
        assert getattr(bench, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = bench.evaluat


def test_a_bare_network_of_timm_is_told_what_makes_it_dynamic():
    net = timm.create_model("test_efficientnet")
    with pytest.raises(ContractBroken, match="sdn and cascade make it dynamic"):
        as_target(net)


@pytest.mark.slow  # a program of its own, which imports torch
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_that_was_forked_does_not_take_the_results_away(tmp_path):
    """It ends as every program does, and the numbers and pictures here are read when asked for."""
    script = (
        "import os, sys, bench\n"
        "from bench.testing import ToyTarget, sample_images\n"
        "def made():\n"
        "    images = sample_images((3, 8, 8))\n"
        "    return bench.evaluate(ToyTarget(), 'identity', images, batch=6, device='cpu')\n"
        "result = made()\n"
        "if (child := os.fork()) == 0:\n"
        "    made()\n"
        "    sys.exit()\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert len(result.cells[0].some_rows(range(2))) == 2\n"
        "print(len(os.listdir(os.environ['TMPDIR'])))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"]
    assert not list(tmp_path.iterdir())
