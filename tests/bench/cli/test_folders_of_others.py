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
