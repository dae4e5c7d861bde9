"""What was rendered before is taken from beside the report, and never anything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import full_board

import reports.leaderboard
from reports.html.cache import RenderCache
from reports.leaderboard import Leaderboard

FILES = [("a/b.html", b"one"), ("c.png", b"\x00\n\x01")]


def test_the_same_parts_are_rendered_once(tmp_path: Path) -> None:
    calls = []

    def make() -> Iterator[tuple[str, bytes]]:
        calls.append(1)
        yield from FILES

    cache = RenderCache(tmp_path / "cache")
    assert cache.files(["x", "y"], make) == cache.files(["x", "y"], make) == FILES
    assert len(calls) == 1
    cache.files(["xy", ""], make)
    assert len(calls) == 2


def test_a_damaged_file_is_rendered_again(tmp_path: Path) -> None:
    cache = RenderCache(tmp_path)
    cache.files(["x"], lambda: FILES)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    assert cache.files(["x"], lambda: FILES) == FILES


def test_what_a_report_did_not_use_is_removed(tmp_path: Path) -> None:
    RenderCache(tmp_path).files(["old"], lambda: FILES)
    cache = RenderCache(tmp_path)
    cache.files(["new"], lambda: FILES)
    assert len(list(tmp_path.iterdir())) == 2
    cache.prune()
    assert len(list(tmp_path.iterdir())) == 1


def test_what_others_put_there_stays(tmp_path: Path) -> None:
    """Also where the cache is a link to a folder of theirs, or holds a folder."""
    kept = tmp_path / "kept"
    (kept / "folder").mkdir(parents=True)
    (kept / "notes.txt").write_text("kept")
    (tmp_path / "link").symlink_to(kept)
    for place in (kept, tmp_path / "link"):
        for used in (True, False):
            cache = RenderCache(place)
            if used:
                cache.files(["x"], lambda: FILES)
            cache.prune()
            assert (kept / "folder").is_dir()
            assert (kept / "notes.txt").read_text() == "kept"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_second_report_renders_no_cell_again_and_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = full_board(n=3)
    board = replace(board, cells=tuple(replace(cell, digest=cell.key) for cell in board.cells[:2]))
    out = tmp_path / "report"
    Leaderboard().render(board, out)
    first = contents(out)
    monkeypatch.setattr(reports.leaderboard, "cell_files", lambda *given: pytest.fail("rendered"))
    Leaderboard().render(board, out)
    assert contents(out) == first


def test_rows_that_changed_are_rendered_again(tmp_path: Path) -> None:
    board = full_board(n=3)
    cell = replace(board.cells[0], digest="before")
    out = tmp_path / "report"
    Leaderboard().render(replace(board, cells=(cell,)), out)
    before = contents(out)
    rows = [replace(row, id=f"other/{row.id}") for row in cell.rows()]
    changed = replace(cell, digest="after", rows=lambda: rows)
    Leaderboard().render(replace(board, cells=(changed,)), out)
    assert b"other/" in contents(out)[f"cells/{cell.key[:12]}.html"]
    assert b"other/" not in before[f"cells/{cell.key[:12]}.html"]
