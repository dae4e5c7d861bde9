"""Merging: other targets and attacks join one board; what differs otherwise is refused by name."""

import os
import shutil

import pyarrow.parquet as pq
import pytest

from bench.results.board import load_boards
from bench.store.folder import CellFolder

OPTIONS = ("--in-process", "--no-report")
HEAD = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 9
[run]
device = "cpu"
shard = 3
"""
TOY = '[[target]]\nuse = "toy"\nweights = "random:0"\nlabel = "first"\n'
OTHER = '[[target]]\nuse = "toy"\nweights = "random:1"\nlabel = "second"\n'
STILL = '[[attack]]\nuse = "still"\n'
WANDER = '[[attack]]\nuse = "wander"\n'
BLACK = '[[attack]]\nuse = "black-box"\n'


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(Name, plan) -> a folder with its finished run, for the tests that make the same."""
    return tmp_path_factory.mktemp("kept"), {}


@pytest.fixture
def run(gatebench, tmp_path, kept):
    """Run a plan under a name, or copy the run of another test."""
    shelf, known = kept

    def make(name, text):
        (tmp_path / f"{name}.toml").write_text(text)
        if (name, text) in known:
            return shutil.copytree(known[name, text], tmp_path / "runs" / name)
        code, _, err = gatebench("run", f"{name}.toml", "--name", name, *OPTIONS)
        assert code == 0, err
        known[name, text] = shutil.copytree(
            tmp_path / "runs" / name, shelf / str(len(known)) / name
        )
        return tmp_path / "runs" / name

    return make


def content(run):
    cells = run / "cells"
    return {
        str(path.relative_to(cells)): path.read_bytes()
        for path in sorted(cells.rglob("*"))
        if path.is_file()
    }


def merged(gatebench, *names, extra=()):
    return gatebench("merge", *names, "--out", "runs/all", "--no-report", *extra)


def test_targets_of_two_machines_make_one_ranked_board(gatebench, run, tmp_path):
    one = run("one", HEAD + TOY + STILL + WANDER)
    two = run("two", HEAD + OTHER + STILL + WANDER)
    whole = run("whole", HEAD + TOY + OTHER + STILL + WANDER)
    code, out, err = merged(gatebench, "one", "two")
    assert code == 0, err
    assert "4 of 4 cells in runs/all" in out
    assert content(tmp_path / "runs" / "all") == content(one) | content(two) == content(whole)
    (board,), (expected,) = load_boards(tmp_path / "runs" / "all"), load_boards(whole)
    assert board.standings == expected.standings
    assert [standing.target for standing in board.standings] != []
    assert {cell.target for cell in board.cells} == {"first", "second"}
    assert merged(gatebench, "one", "two")[0] == 0  # again, into the same folder


def test_targets_that_did_not_stand_the_same_attacks_are_not_ranked(gatebench, run, tmp_path):
    run("one", HEAD + TOY + STILL + WANDER)
    run("two", HEAD + OTHER + STILL)
    run("three", HEAD + OTHER + BLACK)
    code, out, err = merged(gatebench, "one", "two", "three")
    assert code == 0, err
    (board,) = load_boards(tmp_path / "runs" / "all")
    found = {one.target: (one.rank, one.lacks) for one in board.standings}
    assert found == {"first": (None, ("black-box",)), "second": (None, ("wander",))}
    assert "Most robust target: not ranked" in out


def test_attacks_join_and_ensembles_are_combined_from_shares(gatebench, run, tmp_path):
    ensemble = HEAD.replace("budget = 9", "budget = 4").replace("images = 6", "images = 3")
    ensemble += TOY + '[[attack]]\nuse = "autoenergy"\n'
    whole = run("whole", ensemble)
    for number in (2, 1, 3):
        (tmp_path / "s.toml").write_text(ensemble)
        share = ("--share", f"{number}/3")
        code, out, err = gatebench("run", "s.toml", "--name", "s", *OPTIONS, *share)
        assert code == 0, err
        assert f"share {number}/3: " in out
    code, out, err = merged(gatebench, "s-1of3", "s-2of3")
    assert code == 4
    assert "not whole yet: first / autoenergy" in err
    code, out, err = merged(gatebench, "s-3of3", "s-1of3", "s-2of3")
    assert code == 0, err
    assert content(tmp_path / "runs" / "all") == content(whole)


REFUSED = {
    "budget": (HEAD.replace("budget = 9", "budget = 10") + TOY + STILL, "protocol.budget: 9, 10"),
    "images": (HEAD.replace("images = 6", "images = 7") + TOY + STILL, "in their images: subset"),
    "threat": (HEAD.replace("8/255", "4/255") + TOY + STILL, "protocol.threat: "),
    "boards": (HEAD.replace("budget = 9", "budget = [9, 10]") + TOY + STILL, "have 1 and 2 boards"),
    "one label, two targets": (
        HEAD + OTHER.replace("second", "first") + STILL,
        "two runs call another target 'first'",
    ),
    "labels that look alike": (
        HEAD + OTHER.replace("second", "first ") + STILL,
        "the label 'first ' looks like 'first'",
    ),
    "one target, two labels": (
        HEAD + TOY.replace("first", "zeroth") + WANDER,
        "one target is called 'first' and 'zeroth' in two runs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_differs_is_refused_by_name(gatebench, run, tmp_path, case):
    text, said = REFUSED[case]
    run("one", HEAD + TOY + STILL)
    run("two", text)
    code, _, err = merged(gatebench, "one", "two")
    assert code == 9
    assert said in err
    assert not (tmp_path / "runs" / "all").exists()


def rewrite(cell, change):
    """Change what the shards of a cell say of what made them."""
    folder = CellFolder(cell)
    (cell / "cell.json").unlink(missing_ok=True)
    for shard in folder.shards():
        record = {
            name: shard.record[name] for name in shard.record if name not in ("key", "schema")
        }
        change(record)
        rows = pq.read_table(shard.path).to_pylist()
        folder.write_shard(shard.first, shard.last, rows, record)


def test_shards_of_other_environments_and_other_code_are_refused(gatebench, run, tmp_path):
    run("one", HEAD + TOY + STILL)
    two = run("two", HEAD + OTHER + STILL)
    (cell,) = (two / "cells").iterdir()
    rewrite(cell, lambda record: record.update(device="cuda H200"))
    code, _, err = merged(gatebench, "one", "two")
    assert code == 9
    assert "made otherwise: device was 'cpu" in err
    assert "is 'cuda H200' for shard-00000-00002.parquet of 'second / still' in runs/two" in err
    assert merged(gatebench, "one", "two", extra=("--keep",))[0] == 0

    def other_code(record):
        record.update(device=device)
        record["sources"]["attack"] = "0" * 16

    (mine,) = (tmp_path / "runs" / "one" / "cells").iterdir()
    device = CellFolder(mine).shards()[0].record["device"]
    rewrite(cell, other_code)
    code, _, err = gatebench("merge", "one", "two", "--out", "runs/more", "--no-report")
    assert code == 9
    assert "made otherwise: sources of attack still was" in err


def test_the_same_work_with_other_results_is_refused(gatebench, run, tmp_path):
    run("one", HEAD + TOY + WANDER)
    two = run("two", HEAD + TOY + WANDER)
    (cell,) = (two / "cells").iterdir()
    (cell / "cell.json").unlink()
    folder = CellFolder(cell)
    shard = folder.shards()[0]
    rows = pq.read_table(shard.path).to_pylist()
    rows[0]["adversarial_macs"] += 1
    record = {name: shard.record[name] for name in shard.record if name not in ("key", "schema")}
    folder.write_shard(shard.first, shard.last, rows, record)
    code, _, err = merged(gatebench, "one", "two")
    assert code == 9
    assert "'first / wander': shard-00000-00002.parquet of runs/two" in err


def test_an_altered_shard_reaches_no_merged_board(gatebench, run, tmp_path):
    run("one", HEAD + TOY + STILL)
    two = run("two", HEAD + OTHER + STILL)
    (shard, *_) = sorted(two.glob("cells/*/shard-*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-3] + b"xyz")
    code, _, err = merged(gatebench, "one", "two")
    assert code == 5
    assert "is not what was sealed" in err


def test_an_ensemble_that_was_withdrawn_stays_so(gatebench, run, tmp_path):
    plan = HEAD.replace("budget = 9", "budget = 4").replace("images = 6", "images = 3")
    run("whole", plan + TOY + '[[attack]]\nuse = "autoenergy"\n')
    reason = ("--reason", "It was wrong.", "--no-report")
    assert gatebench("withdraw", "whole", "autoenergy", *reason)[0] == 0
    code, _, err = merged(gatebench, "whole")
    assert code == 0, err
    (board,) = load_boards(tmp_path / "runs" / "all")
    assert {cell.attack: cell.status for cell in board.cells}["autoenergy"] == "withdrawn"


@pytest.mark.parametrize("name", ["withdrawn.json", "submission.json", "target.json"])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "link to nothing"])
def test_a_document_that_is_no_plain_file_is_not_left_out(gatebench, run, tmp_path, name, kind):
    """Left out, a row that is withdrawn would be back on the merged board."""
    (cell,) = (run("one", HEAD + TOY + STILL) / "cells").iterdir()
    place, away = cell / name, tmp_path / "away"
    if kind == "link":
        away.write_text('{"reason": "It was wrong."}')
    place.unlink(missing_ok=True)
    {"pipe": os.mkfifo, "folder": os.mkdir}.get(kind, lambda path: path.symlink_to(away))(place)
    code, _, err = merged(gatebench, "one")
    assert code == 5
    assert f"{cell.name}/{name} is no plain file" in err


@pytest.mark.parametrize("second", [TOY, OTHER], ids=["compared", "copied"])
def test_a_file_that_is_too_large_is_named(gatebench, run, tmp_path, second):
    run("one", HEAD + TOY + STILL)
    two = run("two", HEAD + second + STILL)
    (cell,) = (two / "cells").iterdir()
    with open(cell / "target.json", "wb") as file:
        file.truncate(2**40)
    code, _, err = merged(gatebench, "one", "two")
    assert code == 5
    assert f"{cell.name}/target.json cannot be read: it has 1,099,511,627,776 bytes" in err


def test_a_run_that_is_named_twice_is_said(gatebench, run, tmp_path):
    (tmp_path / "again").symlink_to(run("one", HEAD + TOY + STILL))
    code, _, err = gatebench("merge", "one", "again", "--out", "both", "--no-report")
    assert code == 5
    assert "runs/one and again are one run" in err
    code, _, err = gatebench("merge", "one", "one", "--out", "both", "--no-report")
    assert code == 5
    assert "runs/one is named twice" in err
    assert not (tmp_path / "both").exists()


def test_a_run_at_work_and_a_folder_of_others_are_refused(gatebench, run, tmp_path):
    from bench.store.folder import RunFolder

    one = run("one", HEAD + TOY + STILL)
    run("two", HEAD + OTHER + STILL)
    with RunFolder(one).locked():
        code, _, err = merged(gatebench, "one", "two")
    assert code == 5
    assert "is in use by another gatebench" in err
    code, _, err = gatebench("merge", "two", "--out", "runs/one", "--no-report")
    assert code == 5
    assert "holds cells that none of these runs has" in err
    assert gatebench("merge", "nowhere", "--out", "runs/all")[0] == 5


def test_a_failed_cell_stays_failed(gatebench, run, tmp_path):
    bad = '[[attack]]\nuse = "mischief"\nparams = { deed = "raise" }\n'
    (tmp_path / "bad.toml").write_text(HEAD + TOY + STILL + bad)
    codes = [
        gatebench("run", "bad.toml", "--name", "b", *OPTIONS, "--share", f"{i}/2")[0]
        for i in (1, 2)
    ]
    assert set(codes) <= {0, 4}
    assert 4 in codes
    code, _, err = merged(gatebench, "b-1of2", "b-2of2")
    assert code == 4
    assert "failed, 1 of 2 cells" in err
    assert "ZeroDivisionError" in err
