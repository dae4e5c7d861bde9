"""A defense that learns something else every time makes another network of its target."""

import json

import pytest
from mischief_site import TOY_PLAN

from bench.evaluation import prepare
from bench.executors import worker
from bench.results.board import load_boards
from bench.store.folder import RunFolder
from bench.testing import check_defense, problems

RUN = ("run", "plan.toml", "--name", "r", "--no-report", "--in-process")
DEFENDED = "[protocol.fit]\nimages = 4\n[run]\n"


@pytest.fixture
def run(gatebench, tmp_path):
    """Runs some cells as a process of its own would: what the defense learned is learned anew."""
    plan = TOY_PLAN.replace("[run]\n", DEFENDED) + '[[defense]]\nuse = "fitful"\n'
    (tmp_path / "plan.toml").write_text(plan)

    def some(*more):
        prepare._Last.forget()
        worker._Last.forget()
        code, _, err = gatebench(*RUN, *more)
        return code, err, RunFolder(tmp_path / "runs" / "r")

    return some


def learned(folder):
    return {
        key.name: [shard.record["learnt"] for shard in folder.cell(key.name).shards()]
        for key in (folder.path / "cells").iterdir()
    }


def test_a_cell_is_of_one_defended_network(run, tmp_path):
    """Its second shard is computed by another process than the first."""
    code, _, folder = run("--only", "fitful / still")
    assert code == 0
    ((key, (first, second)),) = learned(folder).items()
    assert first == second
    cell = folder.cell(key)
    (cell.path / "cell.json").unlink()
    (cell.path / "shard-00003-00005.parquet").unlink()
    assert run("--only", "fitful / still")[0] == 0
    ((_, again),) = learned(folder).items()
    assert len(set(again)) == 1
    assert again[0] != first  # the shard that there was is computed again
    log = (folder.path / "log.txt").read_text()
    assert "its defense learned otherwise in another process" in log


def test_cells_of_one_target_are_behind_one_defense(run):
    """One of them was computed in another process than the others."""
    assert run()[0] == 0
    assert {cell.status for cell in load_boards(run()[2].path)[0].cells} == {"ok"}
    code, err, folder = run("--only", "fitful / still", "--fresh")
    assert code == 0, err
    cells = [cell for cell in load_boards(folder.path)[0].cells if cell.defense]
    assert len(cells) == 2
    for cell in cells:
        assert cell.reason == "its defense learned otherwise in another cell of this target"
        assert cell.recovery is None or cell.recovery.value is None


def test_verify_learns_again(run, gatebench):
    assert run()[0] == 0
    code, out, err = gatebench("verify", "r")
    assert code == 10
    assert "its defense learned" in out + err


def test_the_contract_test_learns_twice(run):
    run("--only", "nobody")  # so that plugins of the contract tests are found
    from mischief.defenses import Fitful

    assert any("fit returned something else" in said for said in problems(check_defense(Fitful())))


def test_what_was_learned_is_part_of_the_record(run):
    folder = run()[2]
    documents = [json.loads(path.read_bytes()) for path in folder.path.glob("cells/*/cell.json")]
    said = {one["environment"].get("learnt") for one in documents if one["inputs"]["defense"]}
    assert len(said) == 1
    assert said.pop()
