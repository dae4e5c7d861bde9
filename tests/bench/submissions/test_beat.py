"""Beginning at the saved images of a row: nothing is lost, and more is found."""

import json

import pytest

from bench.results.board import load_boards
from bench.store.folder import RunFolder
from bench.verify.verify import verify

HERE = ("--in-process", "--no-report")


def only(run):
    ((board),) = load_boards(run.path)
    (cell,) = board.cells
    return cell


def key_of(run, attack):
    (board,) = load_boards(run.path)
    (cell,) = [cell for cell in board.cells if cell.attack == attack]
    return cell


def test_a_row_is_gone_on_from_and_no_image_gets_worse(gatebench, board, tmp_path):
    before = key_of(board, "wander")
    code, out, err = gatebench("beat", "board", "toy / wander", "--budget", "30", *HERE)
    assert code == 0, err
    run = RunFolder(tmp_path / "runs" / f"board-beat-{before.key[:12]}")
    after = only(run)
    assert "continued" in after.flags
    assert after.attack == "onward from wander"
    pairs = list(zip(before.rows(), after.rows(), strict=True))
    assert all(new.adversarial_macs >= old.adversarial_macs for old, new in pairs)
    assert after.adversarial_macs > before.adversarial_macs
    assert f"{after.adversarial_macs:,.0f} MACs  toy / onward from wander" in out
    assert verify(run, seed=1).holds


def test_both_rows_stand_on_one_board_after_a_merge(gatebench, board, tmp_path):
    key = key_of(board, "wander").key
    assert gatebench("beat", "board", key[:8], *HERE)[0] == 0
    code, _, err = gatebench(
        "merge", "board", f"board-beat-{key[:12]}", "--out", "runs/all", "--no-report"
    )
    assert code == 0, err
    (whole,) = load_boards(tmp_path / "runs" / "all")
    assert {"wander", "onward from wander"} <= {cell.attack for cell in whole.cells}


def test_the_record_names_what_it_began_at(gatebench, board, tmp_path):
    key = key_of(board, "wander").key
    assert gatebench("beat", "board", key[:12], *HERE)[0] == 0
    (path,) = (tmp_path / "runs" / f"board-beat-{key[:12]}" / "cells").glob("*/cell.json")
    document = json.loads(path.read_text())
    assert len(document["environment"]["start"]) == 64
    assert document["inputs"]["attack"]["params"]["start"] == key


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        ("nobody", 2, "has 0 rows 'nobody'"),
        ("ffffffff", 2, "has 0 rows 'ffffffff'"),
    ],
    ids=["no-label", "no-key"],
)
def test_a_row_that_there_is_not_is_refused(gatebench, board, row, code, said):
    found, _, err = gatebench("beat", "board", row, *HERE)
    assert found == code
    assert said in err


def test_an_attack_without_images_to_begin_at_fails_by_name(gatebench, board, tmp_path):
    text = (tmp_path / "plan.toml").read_text().partition("[[attack]]")[0]
    (tmp_path / "on.toml").write_text(
        text + '[[attack]]\nuse = "onward"\nparams = { start = "0123456789" }\n'
    )
    code, _, err = gatebench("run", "on.toml", "--name", "on", *HERE)
    assert code == 4
    assert "no finished cell has the key 0123456789" in err
