"""Whatever lies at a place is removed, and nothing that a link points to."""

import os

import pytest

from bench.files.remove import remove


def a_file(path):
    path.write_text("x")


def a_folder(path):
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "file").write_text("x")


def a_pipe(path):
    os.mkfifo(path)


def nothing(path):
    pass


@pytest.mark.parametrize(
    "make", [a_file, a_folder, a_pipe, nothing], ids=["file", "folder", "pipe", "nothing"]
)
def test_remove(tmp_path, make):
    make(tmp_path / "x")
    remove(tmp_path / "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("make", [a_file, a_folder, nothing], ids=["file", "folder", "dangling"])
def test_remove_leaves_what_links_point_to(tmp_path, make):
    make(tmp_path / "kept")
    before = sorted(tmp_path.rglob("*"))
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "folder")
    assert sorted(tmp_path.rglob("*")) == before
