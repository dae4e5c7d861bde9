"""The report folder: whole or not at all, and never in place of something else."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.errors import DiskError, RunFolderError
from bench.files.marked import STAMP, filling
from reports.html.site import PARTIAL, File, write_site


def listing(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_later_report_replaces_an_earlier_one_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_site([("a.html", b"1"), ("sub/b.html", b"2")], out)
    write_site([("c.html", b"3")], out)
    assert {
        name: content for name, content in listing(out).items() if not name.startswith(".")
    } == {"c.html": b"3"}
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.txt").write_text("years of work")
    with pytest.raises(RunFolderError, match="not a report"):
        write_site([("index.html", b"x")], out)
    assert listing(tmp_path) == {"thesis/chapter1.txt": b"years of work"}


@pytest.mark.parametrize("name", ["CNAME", ".git/HEAD", "sub/notes.txt"])
def test_a_report_with_a_file_of_others_in_it_is_left_alone(tmp_path: Path, name: str) -> None:
    out = tmp_path / "site"
    write_site([("index.html", b"1"), ("sub/a.html", b"1")], out)
    (out / ".DS_Store").write_text("of a file manager")
    write_site([("index.html", b"2"), ("sub/a.html", b"2")], out)
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).write_text("years of work")
    before = listing(out)
    with pytest.raises(RunFolderError, match=f"holds {name}, which is of no report"):
        write_site([("index.html", b"3")], out)
    assert listing(out) == before


def test_a_report_by_a_link_is_written_where_the_link_leads(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "site").symlink_to("far")
    for content in (b"1", b"2"):
        write_site([("index.html", content)], tmp_path / "site")
        assert (tmp_path / "far" / "index.html").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "site"]
    assert (tmp_path / "site").is_symlink()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    write_site([("index.html", b"x")], tmp_path)
    assert (tmp_path / "index.html").read_bytes() == b"x"


def test_a_full_disk_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "report"
    write_site([("index.html", b"old")], out)

    def refuse(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(DiskError, match="No space left"):
        write_site([("index.html", b"new")], out)
    monkeypatch.undo()
    assert (out / "index.html").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_an_interrupted_report_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "report"
    write_site([("index.html", b"old")], out)

    def interrupted() -> Iterator[File]:
        yield "index.html", b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_site(interrupted(), out)
    assert (out / "index.html").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_folders_of_others_beside_a_report_stay(tmp_path: Path) -> None:
    for name in (".report.partial", ".report.old", ".report.mine.partial", ".report.x.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.txt").write_text("years of work")
    before = listing(tmp_path)
    write_site([("index.html", b"1")], tmp_path / "report")
    write_site([("index.html", b"2")], tmp_path / "report")
    found = listing(tmp_path)
    assert before.items() <= found.items()
    assert found["report/index.html"] == b"2"


def test_what_killed_reports_left_is_removed_and_what_they_moved_away_put_back(
    tmp_path: Path,
) -> None:
    out = tmp_path / "report"
    write_site([("index.html", b"old")], out)
    half = tmp_path / ".report.abcd.partial"
    half.mkdir()
    (half / STAMP).touch()
    out.rename(tmp_path / ".report.abcd.old")

    def interrupted() -> Iterator[File]:
        assert (out / "index.html").read_bytes() == b"old"
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        write_site(interrupted(), out)
    assert (out / "index.html").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_reports_at_once_leave_one_that_is_whole(tmp_path: Path) -> None:
    out = tmp_path / "report"
    begun = threading.Barrier(4)

    def one(number: int) -> None:
        def files() -> Iterator[File]:
            for place in range(20):
                yield f"{place}.html", bytes([number])

        begun.wait()
        write_site(files(), out)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
    found = {name: data for name, data in listing(out).items() if name.endswith(".html")}
    assert len(found) == 20
    assert len(set(found.values())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def test_a_report_is_no_folder_of_others_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one looks at the folder in the middle of that; it waits, and finds a report."""
    out = tmp_path / "report"
    write_site([("page.html", b"old")], out)
    first_moved, looked = threading.Event(), threading.Event()
    replace = os.replace

    def slow(source: Path, target: Path) -> None:
        if target == out and source.suffix == PARTIAL and not first_moved.is_set():
            (out / "other.html").parent.mkdir()  # what a look at both moments sees: no mark
            (out / "other.html").write_bytes(b"")
            first_moved.set()
            looked.wait(0.5)
            shutil.rmtree(out)
        replace(source, target)

    monkeypatch.setattr(os, "replace", slow)

    def fill() -> None:
        first_moved.wait()
        with filling(out):
            looked.set()

    with ThreadPoolExecutor(3) as pool:
        done = [pool.submit(write_site, [("page.html", b"first")], out)]
        first_moved.wait()
        done += [pool.submit(fill), pool.submit(write_site, [("page.html", b"second")], out)]
        for one in done:
            one.result(60)
    assert (out / "page.html").read_bytes() == b"second"


def test_a_report_that_begins_while_another_is_written_waits_for_it(tmp_path: Path) -> None:
    """It would take what the first has written so far for what a killed one left."""
    out = tmp_path / "report"
    second = threading.Thread(target=write_site, args=([("page.html", b"second")], out))

    def files() -> Iterator[File]:
        yield "first.html", b"first"
        second.start()
        second.join(0.5)  # it waits, or it is done
        yield "page.html", b"first"

    write_site(files(), out)
    second.join()
    assert set(listing(out)) - {STAMP} == {"page.html"}
    assert listing(out)["page.html"] == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


@pytest.mark.parametrize("name", ["../outside", "/etc/x", "a/../../b", ""])
def test_paths_stay_inside(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="inside a report"):
        write_site([(name, b"x")], tmp_path / "report")
    assert listing(tmp_path) == {}
