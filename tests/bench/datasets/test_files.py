import os

import pytest

from bench.datasets.files import folders_in, is_junk, printable, split_shards, walk_pictures
from bench.errors import DataError


def touch(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    "name",
    ["._a.png", ".DS_Store", ".ipynb_checkpoints", "__MACOSX", "Thumbs.db", "a.png~", "@eaDir"],
)
def test_is_junk(name):
    assert is_junk(name)
    assert not is_junk("a.png")
    assert not is_junk("checkpoints")


def test_walk_pictures_skips_junk_at_every_level_and_keeps_torchvisions_order(tmp_path):
    for name in (
        "b.png", "a.PNG", "._a.png", "Thumbs.db", "notes.txt", "deep/c.png", "deep/.hidden/d.png",
        "deep/__MACOSX/._c.png", ".ipynb_checkpoints/b-checkpoint.png", "another/z.png",
    ):  # fmt: skip
        touch(tmp_path / name)
    (tmp_path / "deep" / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert list(walk_pictures(tmp_path, (".png",))) == [
        "a.PNG",
        "b.png",
        "another/z.png",
        "deep/c.png",
    ]
    assert folders_in(tmp_path) == ["another", "deep"]


def test_printable_names_of_any_encoding():
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable("café") == "café"


def test_split_shards_are_exactly_those_of_the_split(tmp_path):
    for name in ("test2.parquet", "test-extra.parquet", "._test.parquet", "testing.parquet"):
        touch(tmp_path / name)
    assert split_shards(tmp_path, "test", "x") == []
    one = touch(tmp_path / "test.parquet", "one")
    assert split_shards(tmp_path, "test", "x") == [one]
    first = touch(tmp_path / "train-00000-of-00002.parquet", "first")
    with pytest.raises(DataError, match="holds 1 of the 2 files of train; missing: 1"):
        split_shards(tmp_path, "train", "x")
    second = touch(tmp_path / "train-00001-of-00002.parquet", "first")
    with pytest.raises(DataError, match=r"train-00000-of-00002\.parquet and .* are the same file"):
        split_shards(tmp_path, "train", "x")
    second.write_text("second")
    assert split_shards(tmp_path, "train", "x") == [first, second]
    assert split_shards(tmp_path / "nowhere", "train", "x") == []


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(["test.parquet"], id="with-the-whole"),
        pytest.param(["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"], id="two-sets"),
        pytest.param(["test-00000-of-00001-0123456789abcdef.parquet"], id="two-hashes"),
    ],
)
def test_split_shards_refuses_a_split_in_two_forms(tmp_path, others):
    for name in ["test-00000-of-00001.parquet", *others]:
        touch(tmp_path / name, name)
    with pytest.raises(DataError, match="in more than one form"):
        split_shards(tmp_path, "test", "x")


def test_split_shards_with_absurd_numbers(tmp_path):
    touch(tmp_path / "test-00000-of-999999999.parquet")
    with pytest.raises(DataError, match="1 of the 999999999 files"):
        split_shards(tmp_path, "test", "x")
    (tmp_path / "test-00000-of-999999999.parquet").rename(tmp_path / "test-7-of-1.parquet")
    with pytest.raises(DataError, match="missing: 0"):
        split_shards(tmp_path, "test", "x")
