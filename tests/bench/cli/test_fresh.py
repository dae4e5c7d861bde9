"""`--fresh` heals whatever lies in a run's folder, and follows no link."""

import os

import pytest

RUN = ("run", "plan.toml", "--name", "r", "--in-process", "--no-report")


def first_cell(run):
    return sorted((run / "cells").iterdir())[0]


def replace_by_folder(path, outside):
    if path.is_file():
        path.unlink()
    (path / "inside").mkdir(parents=True)
    (path / "inside" / "file").write_text("x")


def replace_by_link(path, outside):
    """The link points to what is to be kept."""
    if path.is_dir():
        os.rename(path, path.with_name(f"{path.name}-away"))
    else:
        path.unlink(missing_ok=True)
    path.symlink_to(outside)


def replace_by_pipe(path, outside):
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def replace_by_garbage(path, outside):
    path.write_bytes(bytes(range(256)))


DAMAGE = {
    "plan is a folder": (lambda run: run / "plan.json", replace_by_folder),
    "plan is a link": (lambda run: run / "plan.json", replace_by_link),
    "plan is garbage": (lambda run: run / "plan.json", replace_by_garbage),
    "lock is a folder": (lambda run: run / "lock", replace_by_folder),
    "lock is a link": (lambda run: run / "lock", replace_by_link),
    "lock is a pipe": (lambda run: run / "lock", replace_by_pipe),
    "log is a link": (lambda run: run / "log.txt", replace_by_link),
    "log is a folder": (lambda run: run / "log.txt", replace_by_folder),
    "board is a folder": (lambda run: run / "board.parquet", replace_by_folder),
    "cells is a link": (lambda run: run / "cells", replace_by_link),
    "cell is a link": (first_cell, replace_by_link),
    "seal is a folder": (lambda run: first_cell(run) / "cell.json", replace_by_folder),
    "seal is a link": (lambda run: first_cell(run) / "cell.json", replace_by_link),
    "seal is garbage": (lambda run: first_cell(run) / "cell.json", replace_by_garbage),
    "target is a folder": (lambda run: first_cell(run) / "target.json", replace_by_folder),
    "folder in a cell": (lambda run: first_cell(run) / "more", replace_by_folder),
}


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def outside(tmp_path):
    """A folder that links point to; `file` in it has the name of a shard."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "shard-00000-00002.parquet").write_text("kept")
    (folder / "plan.json").write_text("kept")
    return folder


@pytest.mark.slow  # a run for each of sixteen damages
def test_fresh_heals_every_damage_and_leaves_what_links_point_to(gatebench, tmp_path, outside):
    assert gatebench(*RUN)[0] == 0
    run, kept = tmp_path / "runs" / "r", content(outside)
    good = {path.name for path in run.iterdir()}
    for name, (place, damage) in DAMAGE.items():
        path = place(run)
        damage(path, outside)
        code, _, err = gatebench(*RUN, "--fresh")
        assert code == 0, f"{name}: {err}"
        assert content(outside) == kept, name
        assert gatebench("show", "r")[0] == 0, name
        assert not path.is_symlink(), name
    assert good <= {path.name for path in run.iterdir()}


def test_a_run_that_is_a_file_or_a_dangling_link_is_replaced(gatebench, tmp_path):
    (tmp_path / "runs").mkdir()
    run = tmp_path / "runs" / "r"
    for make in (lambda: run.write_text("x"), lambda: run.symlink_to(tmp_path / "nowhere")):
        make()
        assert gatebench(*RUN)[0] == 6
        code, _, err = gatebench(*RUN, "--fresh")
        assert code == 0, err
        os.rename(run, tmp_path / "away")
        os.rename(tmp_path / "away", tmp_path / f"away{len(list(tmp_path.iterdir()))}")


@pytest.mark.parametrize("name", ["lock", "log.txt"])
def test_without_fresh_a_link_in_its_place_is_refused_and_not_written_to(
    gatebench, tmp_path, outside, name
):
    assert gatebench(*RUN)[0] == 0
    path = tmp_path / "runs" / "r" / name
    path.unlink()
    path.symlink_to(outside / "plan.json")
    code, _, err = gatebench(*RUN)
    assert code == 5
    assert "is no plain file" in err
    assert "--fresh" in err
    assert (outside / "plan.json").read_text() == "kept"
