"""`gatebench report`: which boards, which place, which errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import full_board

import bench.results.board
from bench.cli.report import report, write_report
from bench.errors import PlanError, RunFolderError

BOARD = full_board(n=2)
BOARD = replace(BOARD, cells=BOARD.cells[:1])


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs under ./runs, whose boards are made up."""
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "plan.json").write_text("{}")
    monkeypatch.setattr(
        bench.results.board, "load_boards", lambda run, whole: [replace(BOARD, name=Path(run).name)]
    )
    return tmp_path / "runs"


def test_one_run_is_reported_beside_its_results(runs: Path) -> None:
    result = CliRunner().invoke(report, ["first"], catch_exceptions=False)
    assert result.exit_code == 0
    page = Path(result.output.strip())
    assert page == Path("runs/first/report/index.html")
    assert "<h1>first</h1>" in page.read_text(encoding="utf-8")


def test_several_runs_make_one_index(runs: Path) -> None:
    result = CliRunner().invoke(
        report, ["first", "runs/second", "--out", "both", "--browse", "0"], catch_exceptions=False
    )
    assert result.output.strip() == "both/index.html"
    assert sorted(path.name for path in Path("both").iterdir() if path.name[0].isdigit()) == [
        "01-first",
        "02-second",
    ]


def test_an_unknown_run_names_the_nearest(runs: Path) -> None:
    with pytest.raises(RunFolderError, match="did you mean 'first'"):
        CliRunner().invoke(report, ["frist"], catch_exceptions=False)


def test_a_folder_of_somebody_s_is_left_alone(runs: Path) -> None:
    Path("thesis").mkdir()
    Path("thesis/chapter").write_text("x")
    with pytest.raises(RunFolderError, match="not a report"):
        CliRunner().invoke(report, ["first", "--out", "thesis"], catch_exceptions=False)
    assert Path("thesis/chapter").read_text() == "x"


@pytest.mark.parametrize("name", ["", ".", "../here"])
def test_the_working_folder_is_a_folder_like_others(
    runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    first = (runs / "first").resolve()
    here = runs.parent / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    arguments = [str(first), "--out", name, "--browse", "0"]
    CliRunner().invoke(report, arguments, catch_exceptions=False)
    assert (here / "index.html").is_file()
    monkeypatch.chdir(runs.parent)
    (here / ".gatebench-report").unlink()
    monkeypatch.chdir(here)
    with pytest.raises(RunFolderError, match="not a report"):
        CliRunner().invoke(report, arguments, catch_exceptions=False)


@pytest.mark.parametrize("name", ["x" * 5000, "x/" * 5000], ids=["name", "path"])
def test_a_run_whose_name_no_file_can_have(runs: Path, name: str) -> None:
    with pytest.raises(RunFolderError, match="there is no run"):
        CliRunner().invoke(report, [name], catch_exceptions=False)


def test_an_option_that_a_report_refuses_is_a_mistake_of_whoever_gave_it(runs: Path) -> None:
    with pytest.raises(PlanError, match=r"^dataset 'board' is no OWNER/NAME"):
        write_report([runs / "first"], Path("out"), name="hub", options={"dataset": "board"})


def test_an_unknown_report_and_options_it_does_not_take(runs: Path) -> None:
    with pytest.raises(PlanError, match="leaderboad"):
        write_report([runs / "first"], Path("out"), name="leaderboad")
    with pytest.raises(PlanError, match="does not take"):
        write_report([runs / "first"], Path("out"), name="sheets", options={"browse": 3})


def test_a_report_of_single_files_leaves_a_folder_of_others_alone(runs: Path) -> None:
    """It writes into the folder of a report, which may be replaced with these files."""
    folder = Path("thesis")
    folder.mkdir()
    (folder / "board.csv").write_text("years of work")
    arguments = ["first", "--use", "sheets", "--out"]
    with pytest.raises(RunFolderError, match="not a report"):
        CliRunner().invoke(report, [*arguments, "thesis"], catch_exceptions=False)
    assert (folder / "board.csv").read_text() == "years of work"
    for use in ("sheets", "leaderboard", "sheets", "leaderboard"):
        asked = ["first", "--use", use, "--out", "site"]
        assert CliRunner().invoke(report, asked, catch_exceptions=False).exit_code == 0
    assert Path("site/index.html").is_file()
