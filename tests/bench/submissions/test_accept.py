"""What is handed in is judged here and joins the board; whoever made it needs no gatebench."""

from pathlib import Path

import outsider
import pytest

from bench.errors import RunFolderError
from bench.plans.resolve import load_plan
from bench.plans.stored import read_plan
from bench.results.board import load_boards
from bench.runs.execute import RunRequest, execute
from bench.store.folder import RunFolder
from bench.verify.verify import verify


@pytest.fixture
def handed_in(stronger, tmp_path):
    """An archive by somebody who does not know gatebench."""
    document, files = outsider.submission(
        stronger, "toy", "random:0", "toy-pixels:test", {"norm": "linf", "eps": "64/255"}
    )
    return outsider.write(tmp_path / "in.zip", outsider.archive(document, files))


def cells(run):
    (board,) = load_boards(run.path)
    return {cell.attack: cell for cell in board.cells}, board


def test_images_of_a_stranger_are_first_on_the_board_with_one_command(gatebench, board, handed_in):
    code, out, err = gatebench("accept", "in.zip", "--into", "board", "--no-report")
    assert code == 0, err
    assert "1 row accepted; " in out
    assert "(submitted)" in out
    found, whole = cells(board)
    row = found["stranger"]
    assert row.attack_rank == 1
    assert found["wander"].attack_rank == 2
    assert row.adversarial_macs > found["autoenergy"].adversarial_macs
    assert whole.standings[0].strongest == "stranger"
    assert (row.submission.who, row.sees) == ("A. Stranger, Elsewhere", "unknown")
    assert row.submission.paper == "https://example.org/paper"
    assert row.command == ""
    checked = verify(board, seed=1)
    assert checked.holds, checked.problems


def test_what_is_there_already_is_not_added_again(gatebench, board, handed_in):
    assert gatebench("accept", "in.zip", "--into", "board", "--no-report")[0] == 0
    before = (board.path / "plan.json").read_bytes()
    code, out, err = gatebench("accept", "in.zip", "--into", "board", "--no-report")
    assert code == 0, err
    assert "toy / stranger: is on the board already" in out
    assert (board.path / "plan.json").read_bytes() == before


def test_the_same_run_goes_on_and_keeps_the_rows_that_were_handed_in(gatebench, board, handed_in):
    assert gatebench("accept", "in.zip", "--into", "board", "--no-report")[0] == 0
    code, out, err = gatebench("run", "plan.toml", "--name", "board", "--in-process", "--no-report")
    assert code == 0, err
    assert "(submitted)" in out
    assert cells(board)[0]["stranger"].attack_rank == 1
    assert verify(board, seed=2).holds


def test_rows_of_a_run_are_handed_in_and_accepted_elsewhere(gatebench, board, tmp_path):
    code, out, err = gatebench(
        *("submit", "board", "--out", "mine.zip", "--only", "wander", "--license", "MIT"),
        *("--who", "Me", "--what", "Signed steps.", "--code", "https://example.org/code"),
    )
    assert code == 0, err
    assert "toy / wander" in out
    text = (tmp_path / "plan.toml").read_text()
    small = text.replace('[[attack]]\nuse = "autoenergy"\n', "").replace(
        '[[attack]]\nuse = "wander"\n', ""
    )
    (tmp_path / "other.toml").write_text(small)
    run = ("run", "other.toml", "--name", "other", "--in-process", "--no-report")
    assert gatebench(*run)[0] == 0
    code, out, err = gatebench("accept", "mine.zip", "--into", "other", "--no-report")
    assert code == 0, err
    ours, theirs = cells(board)[0]["wander"], cells(RunFolder(tmp_path / "runs" / "other"))[0]
    there = theirs["wander"]
    assert there.submission.who == "Me"
    assert there.adversarial_macs == ours.adversarial_macs
    assert [row.adversarial for row in there.rows()] == [row.adversarial for row in ours.rows()]


@pytest.mark.slow  # two defended networks are run and handed in
def test_rows_behind_defenses_are_judged_behind_them(gatebench, plugins, tmp_path):
    defended = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 8
batch = 4
threat = { norm = "linf", eps = "64/255" }
budget = 9
[run]
device = "cpu"
[[target]]
use = "toy"
weights = "random:0"
[[defense]]
use = "bit-depth"
[[defense]]
use = "smoothing"
params = { draws = 3 }
[[attack]]
use = "still"
"""
    (tmp_path / "with.toml").write_text(defended + '[[attack]]\nuse = "wander"\n')
    (tmp_path / "without.toml").write_text(defended)
    for name in ("with", "without"):
        run = ("run", f"{name}.toml", "--name", name, "--in-process", "--no-report")
        code, _, err = gatebench(*run)
        assert code == 0, err
    words = ("--who", "Me", "--what", "Steps.", "--license", "MIT")
    assert gatebench("submit", "with", "--out", "in.zip", *words)[0] == 0
    code, out, err = gatebench("accept", "in.zip", "--into", "without", "--no-report")
    assert code == 0, err
    assert "3 rows accepted; " in out
    ours, theirs = (
        {cell.label: cell for cell in load_boards(tmp_path / "runs" / name)[0].cells}
        for name in ("with", "without")
    )
    assert ours.keys() == theirs.keys()
    for label, cell in ours.items():
        assert theirs[label].adversarial_macs == cell.adversarial_macs, label
        assert theirs[label].digest == cell.digest or cell.attack == "wander"
    assert verify(RunFolder(tmp_path / "runs" / "without"), seed=3).holds


def test_an_archive_of_the_same_rows_is_the_same_bytes(gatebench, board, tmp_path):
    words = ("--who", "Me", "--what", "Steps.", "--license", "MIT")
    for name in ("a.zip", "b.zip"):
        assert gatebench("submit", "board", "--out", name, *words)[0] == 0
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_words_that_cannot_be_shown_write_no_archive(gatebench, board, tmp_path):
    words = ("--who", "Me\u202e", "--what", "Steps.", "--license", "MIT")
    code, _, err = gatebench("submit", "board", "--out", "a.zip", *words)
    assert code == 2
    assert "who is empty, longer than 200 characters, or holds hidden characters" in err
    assert not list(tmp_path.glob("*.zip*"))
    assert not list(tmp_path.glob(".*draft*"))


@pytest.mark.slow  # runs, hands in and merges
def test_merged_boards_keep_who_handed_in(gatebench, board, handed_in, tmp_path):
    assert gatebench("accept", "in.zip", "--into", "board", "--no-report")[0] == 0
    text = (tmp_path / "plan.toml").read_text()
    (tmp_path / "other.toml").write_text(
        text.replace('label = "toy"', 'label = "second"').replace("random:0", "random:1")
    )
    run = ("run", "other.toml", "--name", "other", "--in-process", "--no-report")
    assert gatebench(*run)[0] == 0
    code, _, err = gatebench("merge", "board", "other", "--out", "runs/all", "--no-report")
    assert code == 0, err
    found, _ = cells(RunFolder(tmp_path / "runs" / "all"))
    assert found["stranger"].submission.who == "A. Stranger, Elsewhere"


def test_a_withdrawn_row_stays_with_its_reason_and_without_a_rank(gatebench, board, handed_in):
    assert gatebench("accept", "in.zip", "--into", "board", "--no-report")[0] == 0
    reason = ("--reason", "The images were made with the labels of the test split.")
    code, out, err = gatebench("withdraw", "board", "stranger", *reason, "--no-report")
    assert code == 0, err
    assert "stranger withdrawn: The images were made with the labels of the test split." in out
    found, whole = cells(board)
    row = found["stranger"]
    assert (row.status, row.attack_rank, row.recovery.value) == ("withdrawn", None, None)
    assert row.submission.who == "A. Stranger, Elsewhere"
    assert found["wander"].attack_rank == 1
    assert whole.standings[0].strongest != "stranger"
    code, out, _ = gatebench("withdraw", "board", "stranger", "--undo", "--no-report")
    assert code == 0
    assert cells(board)[0]["stranger"].attack_rank == 1


def test_an_ensemble_stays_withdrawn_when_it_is_combined_again(gatebench, board):
    reason = ("--reason", "One of its members was withdrawn.")
    assert gatebench("withdraw", "board", "autoenergy", *reason, "--no-report")[0] == 0
    run = ("run", "plan.toml", "--name", "board", "--in-process", "--no-report")
    assert gatebench(*run)[0] == 0
    assert cells(board)[0]["autoenergy"].status == "withdrawn"


@pytest.mark.parametrize("cause", ["fresh", "damaged", "not-described"])
def test_a_row_that_is_computed_again_stays_withdrawn(gatebench, board, cause):
    reason = ("--reason", "It was tuned on these images.")
    assert gatebench("withdraw", "board", "wander", *reason, "--no-report")[0] == 0
    place = board.cell(cells(board)[0]["wander"].key)
    if cause == "damaged":
        place.shards()[0].path.write_bytes(b"")
    if cause == "not-described":
        place.remove(["target.json", "cell.json"])
    run = ("run", "plan.toml", "--name", "board", "--in-process", "--no-report")
    assert gatebench(*run, *(["--fresh"] if cause == "fresh" else []))[0] == 0
    row = cells(board)[0]["wander"]
    assert (row.status, row.reason) == ("withdrawn", reason[1])
    assert gatebench("withdraw", "board", "wander", "--undo", "--no-report")[0] == 0
    assert cells(board)[0]["wander"].status == "ok"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nobody", "--reason", "x"), "has no row 'nobody'"),
        (("wander",), "give --reason TEXT, or --undo"),
        (("wander", "--reason", "x", "--undo"), "give --reason TEXT, or --undo"),
        (("wander", "--reason", "two\nlines"), "a reason is one line"),
    ],
    ids=["no-such-row", "no-reason", "both", "two-lines"],
)
def test_a_withdrawal_needs_a_row_and_a_reason(gatebench, board, arguments, said):
    code, _, err = gatebench("withdraw", "board", *arguments)
    assert code == 2
    assert said in err


def test_pages_say_who_handed_in_and_how_to_go_on(gatebench, board, handed_in):
    assert gatebench("accept", "in.zip", "--into", "board")[0] == 0
    (key,) = [key for key, cell in read_plan(board).cells.items() if cell.is_handed_in]
    page = (board.path / "report" / "cells" / f"{key[:12]}.html").read_text()
    assert "A. Stranger, Elsewhere" in page
    assert '<a href="https://example.org/paper"' in page
    assert f"gatebench beat board {key[:12]}" in page
    index = (board.path / "report" / "index.html").read_text()
    assert "submitted by A. Stranger, Elsewhere" in index


def test_a_plan_that_names_a_row_like_one_handed_in_is_refused(gatebench, board, handed_in):
    """Where another plan may go into the folder, its rows and the handed-in ones must be told
    apart; a plan.json that holds both could not be read again."""
    assert gatebench("accept", "in.zip", "--into", "board", "--no-report")[0] == 0
    before = (board.path / "plan.json").read_bytes()
    text = Path("plan.toml").read_text().replace('"wander"', '"wander"\nlabel = "stranger "')
    Path("other.toml").write_text(text)
    request = RunRequest(
        plan=load_plan("other.toml"),
        command="",
        out=board.path.parent,
        name="board",
        renew=True,
        in_process=True,
    )
    with pytest.raises(RunFolderError, match="'stranger' looks like 'stranger '"):
        execute(request)
    assert (board.path / "plan.json").read_bytes() == before
