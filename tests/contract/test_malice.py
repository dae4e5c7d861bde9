"""Real runs with spawned workers, full of attacks and targets that break their contracts: each
costs its own cell and nothing else."""

import json
import subprocess
import sys

import pytest

from bench.store.folder import RunFolder

HEAD = """
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 9
audit = 6
[run]
device = "cpu"
shard = 3
workers = 2
deadline = "20s"
"""
TOY = '[[target]]\nuse = "toy"\nweights = "random:0"\n'

WITHHELD = "used the weights of the network that it attacks past its view"

ATTACKS = {
    "raise": ("failed", "raised ZeroDivisionError: on purpose"),
    "nan": ("invalid", "the attack returned NaN or infinity"),
    "infinity": ("invalid", "the attack returned NaN or infinity"),
    "range": ("ok", ""),
    "ball": ("ok", ""),
    "shape": ("invalid", "the attack returned (3, 1, 8, 8), expected images of shape (3, 3, 8, 8)"),
    "type": ("invalid", "the attack returned list"),
    "integers": ("invalid", "the attack returned torch.uint8, expected float images"),
    "in-place": ("invalid", "edited the clean images in place"),
    "weights": ("invalid", "changed the target's weights: head.weight"),
    "buffers": ("invalid", "changed the target's weights: head.bias"),
    "train": ("invalid", "switched blocks.1 to train mode"),
    "spend": (
        "invalid",
        "the budget of 9 forward-equivalents an image is spent; catch BudgetSpent",
    ),
    "gates": ("failed", "AssertionError: only for access macs"),
    "gradients": ("invalid", "expected one number a row"),
    "price": ("ok", ""),
    "pass-rows-off": ("invalid", "rows name the image"),
    "past-the-view": ("invalid", WITHHELD),
    "past-the-view-inside": ("invalid", WITHHELD),
    "past-the-view-by-class": ("invalid", WITHHELD),
    "past-the-view-by-module": ("invalid", WITHHELD),
    "past-the-view-by-weight": ("invalid", WITHHELD),
    "past-the-view-in-losses": ("invalid", WITHHELD),
    "past-the-view-opened": ("invalid", "evaluated the target on 3 images past its view"),
    "lying-images": ("ok", ""),
    "free-backward": ("ok", ""),
    "free-gradient": ("ok", ""),
    "fork": ("skipped", "mischief does not fork"),
    "supports-keeps": ("ok", ""),
    "supports-evaluates": ("invalid", "supports() evaluates the target"),
    "supports-lies": ("invalid", "supports() returned 'no'"),
    "system-exit": ("failed", "raised SystemExit: enough"),
    "interrupt": ("failed", "the worker process died (exit code 1)"),
    "garbage": ("ok", ""),
    "memory": ("oom", "out of memory at batch 3; set protocol.batch = 1"),
    "labels": ("ok", ""),
    "surrogate": ("failed", "ValueError: half a character: \\udc80"),
    "unspeakable": ("failed", "raised Unspeakable, whose message cannot be printed"),
    "exit": ("failed", "the worker process died (exit code 3)"),
    "segfault": ("failed", "the worker process died (signal 11)"),
    "kill": ("failed", "the worker process died (signal 9)"),
    "hang": ("timeout", "took longer than the deadline of 20 s a shard"),
    "busy": ("timeout", "took longer than the deadline of 20 s a shard"),
    "global-state": ("ok", ""),
    "peek-global-state": ("ok", ""),
}
NAMED = {
    "broken": ("failed", "cannot be imported: SystemExit: this module leaves"),
    "unmade": ("failed", "is no bench.api.Attack"),
    "abstract": ("failed", "cannot be made with {}: TypeError"),
    "outputs": ("invalid", 'an attack with access "macs" asked for outputs'),
    "grads": ("invalid", 'an attack with access "macs" asked for gradients'),
    "prices": ("invalid", 'an attack with access "macs" asked for decisions'),
    "gambler": ("ok", ""),
    "still": ("ok", ""),
    "wander": ("ok", ""),
    "black-box": ("ok", ""),
    "contested": ("ok", ""),
    "other contested": ("ok", ""),
}
LIARS = {
    "none": ("ok", ""),
    "macs": ("invalid", "says 16676, but ptflops counts 16675"),
    "floor": ("invalid", "the floor is declared as 7202 MACs, but ptflops counts 7203"),
    "ceiling": ("invalid", "the ceiling is declared as 35620 MACs, but ptflops counts 35619"),
    "mask": ("invalid", "ptflops counts 35619"),
    "ignores-forced": ("invalid", "execute was told which units to run and ran others"),
    "forward-ignores-forced": ("invalid", "forward was told which units to run and ran others"),
    "disagrees": ("invalid", "execute disagrees with forward"),
    "decides-otherwise": ("invalid", "but ptflops counts"),
    "random": ("invalid", "two forward passes of the same images differ"),
    "company": ("invalid", "depends on the others in its batch"),
    "nan": ("invalid", "logits are not all finite"),
    "late-nan": ("invalid", "logits are not all finite"),
    "inference": ("invalid", "torch.inference_mode"),
    "inference-declared": ("invalid", "torch.inference_mode"),
    "lstm": ("invalid", "but ptflops counts"),
    "shape": ("invalid", "margins have shape (3, 2), expected (3, 3)"),
    "price-type": ("invalid", "macs(decisions) returns torch.float64"),
    "raises": ("failed", "raised LookupError: no forward today"),
    "after": ("invalid", "runs a unit without the one that it comes after"),
    "trains": ("invalid", "switched head to train mode"),
    "drifts": ("invalid", "two forward passes of the same images differ"),
}


def attack_tables():
    text = "".join(
        f'[[attack]]\nuse = "mischief"\nlabel = "{deed}"\nparams = {{ deed = "{deed}" }}\n'
        for deed in ATTACKS
    )
    for label in NAMED:
        door = {"outputs": "outputs", "grads": "gradients", "prices": "price"}.get(label)
        use = {"contested": "mischief/contested", "other contested": "rival/contested"}.get(
            label, "burglar" if door else label
        )
        params = f'params = {{ door = "{door}" }}\n' if door else ""
        text += f'[[attack]]\nuse = "{use}"\nlabel = "{label}"\n{params}'
    return text


def run(folder, text, environment, *extra):
    (folder / "plan.toml").write_text(text)
    command = [
        sys.executable,
        "-m",
        "bench",
        "run",
        "plan.toml",
        "--name",
        "r",
        "--no-report",
        *extra,
    ]
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=280
    )


def sealed_cells(folder):
    cells = {}
    for path in RunFolder(folder / "runs" / "r").path.glob("cells/*/cell.json"):
        sealed = json.loads(path.read_text())
        cells[sealed["inputs"]["target"]["label"], sealed["inputs"]["attack"]["label"]] = sealed | {
            "folder": path.parent
        }
    return cells


@pytest.fixture(scope="module")
def malice(tmp_path_factory, child_environment):
    folder = tmp_path_factory.mktemp("malice")
    done = run(folder, HEAD + TOY + attack_tables(), child_environment)
    return done, {attack: sealed for (_, attack), sealed in sealed_cells(folder).items()}, folder


@pytest.mark.slow  # 50 cells with workers, two of which run into a deadline
@pytest.mark.parametrize("label", [*ATTACKS, *NAMED])
def test_each_attack_ends_as_it_deserves(malice, label):
    done, cells, _ = malice
    status, reason = (ATTACKS | NAMED)[label]
    assert label in cells, done.stderr
    assert cells[label]["status"] == status, cells[label]["reason"] + cells[label]["detail"]
    assert reason in cells[label]["reason"]
    if status == "ok":
        assert len(cells[label]["shards"]) == 2
        assert cells[label]["aggregates"]["images"] == 6
        assert not cells[label]["reason"]
    else:
        assert not cells[label]["shards"]


@pytest.mark.slow  # 50 cells with workers, two of which run into a deadline
def test_one_bad_cell_never_stops_the_others(malice):
    done, cells, folder = malice
    assert done.returncode == 4, done.stderr
    assert len(cells) == len(ATTACKS) + len(NAMED)
    assert "Traceback" not in done.stderr, "the terminal shows reasons, the log the tracebacks"
    for status in ("failed", "invalid", "oom", "timeout"):
        assert f"\n{status}, " in "\n" + done.stderr
    log = (folder / "runs" / "r" / "log.txt").read_bytes().decode(errors="replace")
    assert "in _raise" in log
    assert "ZeroDivisionError: on purpose" in log
    assert "more rubbish" in log
    assert "rubbish" not in done.stdout + done.stderr, (
        "what a plugin prints stays out of the display"
    )


@pytest.mark.slow  # 50 cells with workers, two of which run into a deadline
def test_tracebacks_are_kept_with_the_cell(malice):
    _, cells, _ = malice
    assert "in _raise" in cells["raise"]["detail"]
    assert "attack 'raise'" in cells["raise"]["reason"]
    assert "this module leaves" in cells["broken"]["detail"]


@pytest.mark.slow  # 50 cells with workers, two of which run into a deadline
def test_an_attack_that_leaves_the_ball_is_pulled_back_and_flagged(malice):
    import io

    import numpy as np
    import pyarrow.parquet as pq
    from PIL import Image

    _, cells, _ = malice
    assert "left-threat" not in cells["wander"]["flags"]
    assert "left-threat" not in cells["still"]["flags"]
    for label in ("range", "ball"):
        assert "left-threat" in cells[label]["flags"]
        rows = [
            row
            for path in sorted(cells[label]["folder"].glob("*.parquet"))
            for row in pq.read_table(path).to_pylist()
        ]
        assert len(rows) == 6
        for row in rows:
            before, after = (
                np.asarray(Image.open(io.BytesIO(row[name]["bytes"])), dtype=int)
                for name in ("image", "adversarial")
            )
            d = after - before
            assert abs(d).max() == row["linf"] == 8
            assert (d**2).sum() == row["squared"]
            assert row["overshoot"]


@pytest.mark.slow  # 50 cells with workers, two of which run into a deadline
def test_cells_do_not_reach_into_each_other(malice):
    """`global-state` ran in the same workers as what came after it, and `labels` wrote into what it
    was handed."""
    _, cells, _ = malice
    assert (
        cells["labels"]["aggregates"]["adversarial_macs"]
        == cells["still"]["aggregates"]["adversarial_macs"]
    )
    assert cells["contested"]["aggregates"] == cells["still"]["aggregates"]
    assert cells["other contested"]["aggregates"] == cells["wander"]["aggregates"], (
        "the same attack by another name and distribution"
    )


@pytest.fixture(scope="module")
def lies(tmp_path_factory, child_environment):
    folder = tmp_path_factory.mktemp("lies")
    text = HEAD + "".join(
        f'[[target]]\nuse = "liar"\nweights = "random:0"\nlabel = "{lie}"\nparams = {{ lie = "{lie}" }}\n'
        for lie in LIARS
    )
    done = run(
        folder,
        text + '[[attack]]\nuse = "still"\n[[attack]]\nuse = "wander"\n',
        child_environment,
        "--in-process",
    )
    return done, sealed_cells(folder)


@pytest.mark.slow  # a run of 22 targets that lie
@pytest.mark.parametrize("lie", LIARS)
def test_a_target_that_lies_ends_invalid(lies, lie):
    done, cells = lies
    status, reason = LIARS[lie]
    for attack in ("still", "wander"):
        assert (lie, attack) in cells, done.stderr
        sealed = cells[lie, attack]
        assert sealed["status"] == status, sealed["reason"] + sealed["detail"]
        assert reason in sealed["reason"]
    assert done.returncode == 4


@pytest.mark.slow  # a run of 22 targets that lie
def test_no_number_of_a_liar_reaches_the_board(lies):
    done, _ = lies
    rows = [
        line for line in done.stdout.splitlines() if "kMAC" in line and "of" not in line.split()
    ]
    assert len(rows) == 2, "only the honest target has numbers"


def test_a_name_that_two_distributions_provide_is_refused(tmp_path, child_environment):
    done = run(tmp_path, HEAD + TOY + '[[attack]]\nuse = "contested"\n', child_environment)
    assert done.returncode == 2
    assert (
        "provided by mischief and by rival; write 'mischief/contested' or 'rival/contested'"
        in done.stderr
    )
