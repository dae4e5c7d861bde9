"""`gatebench publish`: one site over several runs, with the digest of every file."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import full_board

import bench.results.board
from bench.cli.publish import publish

BOARD = full_board(n=3)
BOARD = replace(BOARD, cells=BOARD.cells[:2])


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs under ./runs, whose boards are made up."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").write_text("{}")
    monkeypatch.setattr(
        bench.results.board, "load_boards", lambda run, whole: [replace(BOARD, name=Path(run).name)]
    )


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("names", [("first",), ("first", "second")], ids=["one run", "two runs"])
def test_the_site_has_a_first_page_over_all_boards_and_digests(names: tuple[str, ...]) -> None:
    arguments = [*names, "--out", "site", "--title", "Our boards"]
    done = CliRunner().invoke(publish, arguments, catch_exceptions=False)
    assert done.output.strip() == "site/index.html"
    page = Path("site/index.html").read_text(encoding="utf-8")
    assert "<h1>Our boards</h1>" in page
    assert BOARD.command in page
    for number, name in enumerate(names, 1):
        assert f'href="{number:02d}-{name}/index.html"' in page
        assert Path(f"site/{number:02d}-{name}/board.csv").is_file()
    digests = dict(
        reversed(line.split("  ", 1)) for line in Path("site/SHA256SUMS").read_text().splitlines()
    )
    files = {
        str(path.relative_to("site"))
        for path in Path("site").rglob("*")
        if path.is_file() and path.name not in ("SHA256SUMS", ".gatebench-report")
    }
    assert set(digests) == files
    for name, digest in digests.items():
        assert hashlib.sha256((Path("site") / name).read_bytes()).hexdigest() == digest, name
