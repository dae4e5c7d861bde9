"""No command writes into a folder that somebody else filled, or throws away what lies there."""

import pytest

RUN = ("run", "plan.toml", "--in-process", "--no-report")


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def theirs(tmp_path):
    """A folder of somebody else's, whose files are called as those of a run."""
    folder = tmp_path / "runs" / "theirs"
    (folder / "cells").mkdir(parents=True)
    for name in ("lock", "log.txt", "board.csv", "cells/notes", "thesis"):
        (folder / name).write_text("theirs")
    return folder


@pytest.mark.parametrize("more", [(), ("--fresh",)], ids=["plain", "fresh"])
def test_a_run_leaves_a_folder_of_others_alone(gatebench, theirs, more):
    before = content(theirs)
    code, _, said = gatebench(*RUN, "--name", "theirs", *more)
    assert code == 5
    assert "it holds thesis, but no plan.json" in said
    assert content(theirs) == before


def test_merge_leaves_a_folder_of_others_alone(gatebench, theirs):
    assert gatebench(*RUN, "--name", "ours")[0] == 0
    before = content(theirs)
    code, _, said = gatebench("merge", "ours", "--out", str(theirs), "--no-report")
    assert code == 5
    assert "it was left alone" in said
    assert content(theirs) == before


def test_a_run_that_lost_its_plan_goes_on(gatebench, tmp_path):
    """A file of a file manager is nobody's work."""
    assert gatebench(*RUN, "--name", "ours")[0] == 0
    run = tmp_path / "runs" / "ours"
    before = content(run / "cells")
    (run / "plan.json").unlink()
    (run / ".DS_Store").write_text("x")
    assert gatebench(*RUN, "--name", "ours")[0] == 0
    assert content(run / "cells") == before


def test_a_run_whose_pages_cannot_be_written_shows_its_table(gatebench, tmp_path):
    """Somebody put a file beside the pages: it is left, and what was computed is seen."""
    assert gatebench("run", "plan.toml", "--name", "r", "--in-process")[0] == 0
    note = tmp_path / "runs" / "r" / "report" / "notes.txt"
    note.write_text("theirs")
    code, out, err = gatebench("run", "plan.toml", "--name", "r", "--in-process")
    assert code == 5
    assert "report holds notes.txt, which is of no report of gatebench" in err
    assert "wander" in out
    assert "page: " not in out
    assert note.read_text() == "theirs"
