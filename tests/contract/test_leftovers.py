"""What a plugin leaves behind in its process reaches no cell of another plugin."""

import json
import signal
import sys
import typing

import pyarrow.parquet as pq
import pytest
from mischief_site import SITE

from bench.cli import main
from bench.plugins import registry

sys.path.append(str(SITE))
from mischief.leftovers import Kind

sys.path.remove(str(SITE))
KINDS = typing.get_args(Kind)

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 5
[run]
device = "cpu"
shard = 3
workers = 1
[[target]]
use = "toy"
weights = "random:0"
"""


def dice(after):
    return f'[[attack]]\nuse = "dice"\nlabel = "after {after}"\nparams = {{ after = "{after}" }}\n'


def leftover(kind):
    return f'[[attack]]\nuse = "leftover"\nlabel = "{kind}"\nparams = {{ kind = "{kind}" }}\n'


NOISE = '[[attack]]\nuse = "noise"\n'


def rows_of(folder, attacks, *, workers=1, name="run"):
    """The rows of every finished cell by the label of its attack, and the status of every cell.

    The command runs in this process, its workers in processes of their own.
    """
    (folder / "plan.toml").write_text(PLAN.replace("workers = 1", f"workers = {workers}") + attacks)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(SITE))
        registry.providers.cache_clear()
        with pytest.raises(SystemExit) as end:
            main(["run", "plan.toml", "--no-report", "--name", name])
    registry.providers.cache_clear()
    signal.signal(signal.SIGTERM, before)
    assert end.value.code in (0, 4)
    rows, statuses = {}, {}
    for cell in (folder / "runs" / name / "cells").iterdir():
        document = json.loads((cell / "cell.json").read_bytes())
        label = document["inputs"]["attack"]["label"]
        statuses[label] = document["status"], document["reason"]
        rows[label] = [
            pq.read_table(path).to_pylist() for path in sorted(cell.glob("shard-*.parquet"))
        ]
    return rows, statuses


SOME = ("autocast", "folder", "method", "error")
LONG = pytest.mark.slow  # a fresh process for each of 18 kinds, with one and with two workers


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, SOME), id="one-worker-some"),
        pytest.param((1, KINDS), id="one-worker", marks=LONG),
        pytest.param((2, KINDS), id="two-workers", marks=LONG),
    ],
)
def case(request):
    """How many workers, and which kinds of leftovers."""
    return request.param


@pytest.fixture(scope="module")
def alone(case, tmp_path_factory):
    """The same cells in a run without any attack that leaves something behind."""
    attacks = NOISE + "".join(dice(kind) for kind in case[1])
    rows, statuses = rows_of(tmp_path_factory.mktemp("alone"), attacks)
    assert {status for status, _ in statuses.values()} == {"ok"}
    return rows


@pytest.fixture(scope="module")
def beside(case, tmp_path_factory):
    """Each of them right after an attack that leaves something behind."""
    workers, kinds = case
    attacks = "".join(leftover(kind) + dice(kind) for kind in kinds) + NOISE
    folder = tmp_path_factory.mktemp("beside")
    return rows_of(folder, attacks, workers=workers)


def test_what_is_left_behind_changes_no_row_of_another_cell(case, alone, beside):
    rows, statuses = beside
    for kind in case[1]:
        assert statuses[f"after {kind}"] == ("ok", ""), kind
        assert len(rows[f"after {kind}"]) == 2, kind
        assert rows[f"after {kind}"] == alone[f"after {kind}"], kind


def test_cells_of_gatebench_alone_are_as_before_too(alone, beside):
    assert beside[0]["noise"] == alone["noise"]


def test_an_error_of_ours_raised_by_a_plugin_costs_its_cell_alone(beside):
    _, statuses = beside
    status, reason = statuses["error"]
    assert status == "failed"
    assert "attack 'error' raised DiskError: the disk is said to be full" in reason


def test_a_cell_is_written_whatever_its_attack_may_write(beside):
    assert beside[1].get("limits", ("ok", "")) == ("ok", "")


def test_dice_of_the_test_really_roll(alone):
    labels = [label for label in alone if label.startswith("after")]
    pictures = {row["adversarial"]["bytes"] for part in alone[labels[0]] for row in part}
    assert len(pictures) == 6


def remembering(by):
    return (
        f'[[attack]]\nuse = "forgetful"\nlabel = "by {by}"\n'
        f'params = {{ keeps = "cache", by = {by} }}\n'
    )


def test_what_an_attack_remembers_by_image_reaches_no_other_cell_of_its_own(tmp_path):
    """Images are the same in all cells, so that a memory of one cell answers for the next."""
    rows, statuses = rows_of(tmp_path, "".join(remembering(by) for by in (1, 2, 3)))
    assert {status for status, _ in statuses.values()} == {"ok"}
    moved = {
        label: {row["linf"] for shard in shards for row in shard} for label, shards in rows.items()
    }
    assert moved == {"by 1": {1}, "by 2": {2}, "by 3": {3}}
