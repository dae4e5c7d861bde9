"""`gatebench headroom`: a reference run at a multiple of the budget, held against a finished run."""

import csv
import json
import shutil

import pytest
from mischief_site import SITE

import bench
from bench.analysis.headroom import measure_planned
from bench.cli import main
from bench.plans.resolve import load_plan
from bench.plans.stored import read_plan
from bench.plugins import registry
from bench.results.board import load_boards
from bench.results.headroom import gain, read_headroom
from bench.results.stats import UNDEFINED
from bench.runs.execute import RunRequest, execute
from bench.store.folder import RunFolder
from bench.submissions.withdraw import withdraw

PLAN = """
schema = 1
[protocol]
dataset = "digits-m:test"
images = 4
batch = 4
budget = 7
threat = { norm = "psnr", floor = 35 }
audit = 1
[[target]]
use = "avit"
weights = "avit-32x6-p8-avit@digits-m"
[[attack]]
use = "pry"
[[attack]]
use = "identity"
[[attack]]
use = "square"
"""
TOY = PLAN.replace("schema = 1", "schema = 1\nheadroom = 3").replace("digits-m", "toy-pixels")
TOY = TOY.replace('"avit"', '"toy"').replace("avit-32x6-p8-avit@toy-pixels", "random:0")
"""The same of a target that costs nothing, where the numbers do not matter."""


@pytest.fixture
def project(gatebench, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN)
    return gatebench


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The run folder of the plan, and its report."""
    place = tmp_path_factory.mktemp("finished")
    (place / "plan.toml").write_text(PLAN)
    command = ["run", str(place / "plan.toml"), "--name", "r", "--out", str(place / "runs")]
    with pytest.raises(SystemExit) as end:
        main([*command, "--in-process"])
    assert end.value.code == 0
    return place / "runs"


@pytest.fixture
def after(project, finished, tmp_path):
    """Commands where the run "r" is finished."""
    shutil.copytree(finished, tmp_path / "runs")
    return project


def test_gain_counts_what_the_reference_adds_and_nothing_else():
    found = gain([50, 60, 100], [70, 40, 100], [20, 20, 20], 120)
    assert found.value == pytest.approx(20 / 300)
    assert found.low is not None
    assert 0 <= found.low <= found.value <= found.high
    assert gain([50], [60], [120], 120).value is None


@pytest.mark.parametrize(
    "clean",
    [
        pytest.param([999, 999], id="next-to-nothing-saved"),
        pytest.param([1100, 1100], id="dearer-than-without-the-defense"),
    ],
)
def test_gain_is_undefined_where_recovery_is(clean):
    assert gain(clean, [1200, 1000], clean, 1000) == UNDEFINED


def test_headroom_of_a_run_that_is_not_there(project):
    code, _, err = project("headroom", "r")
    assert code != 0
    assert "'r'" in err


def test_headroom_of_a_finished_run(after, tmp_path):
    code, out, err = after("headroom", "r", "--images", "3", "--times", "6")
    assert code == 0, err
    document = json.loads((tmp_path / "runs/r/headroom.json").read_text())
    (entry,) = document["entries"]
    assert (entry["target"], entry["images"], entry["budget"]) == ("avit-32x6-p8-avit", 3, 42)
    assert entry["attack"] in ("pry", "square")
    assert entry["gain"] > 0  # two steps are not enough
    assert entry["low"] <= entry["gain"] <= entry["high"]
    assert "avit-32x6-p8-avit" in out
    folder = RunFolder(tmp_path / "runs/r")
    board = read_plan(folder).boards[0]
    (read,) = read_headroom(folder, 0, board)
    assert read.gain == entry["gain"]
    assert read_headroom(folder, 1, board) == []


@pytest.mark.slow  # a run of a trained network with its reference run and its pages
def test_a_plan_asks_for_it_and_every_view_of_the_board_shows_it(project, tmp_path):
    (tmp_path / "plan.toml").write_text(PLAN.replace("schema = 1", "schema = 1\nheadroom = 3"))
    code, out, err = project("run", "plan.toml", "--name", "r", "--in-process")
    assert code == 0, err
    assert err.count("headroom: avit-32x6-p8-avit / ") == 1
    document = json.loads((tmp_path / "runs/r/headroom.json").read_text())
    (entry,) = document["entries"]
    assert (entry["images"], entry["times"], entry["budget"]) == (3, 10, 70)
    shown = f"{100 * entry['gain']:+.1f}"
    assert f"with 10 times the budget adds {shown}" in " ".join(out.split())
    page = (tmp_path / "runs/r/report/index.html").read_text()
    assert f"{shown}\u00a0points" in page
    assert "10 × the budget, 3 images" in page
    rows = list(csv.DictReader((tmp_path / "runs/r/board.csv").read_text().splitlines()))
    assert {float(row["headroom"]) for row in rows} == {entry["gain"]}
    code, _, err = project("run", "plan.toml", "--name", "r", "--no-report", "--in-process")
    assert code == 0
    assert "headroom: " not in err  # it is there already


def test_a_program_gets_it_as_a_command_does(project, tmp_path):
    (tmp_path / "plan.toml").write_text(TOY)
    found = bench.run(tmp_path / "plan.toml", name="p", out=tmp_path / "runs", in_process=True)
    (standing,) = found.boards[0].standings
    assert standing.headroom is not None
    assert (standing.headroom.images, standing.headroom.times) == (3, 10)


def test_a_board_says_where_it_was_not_measured(after, tmp_path):
    assert "not measured" in (tmp_path / "runs/r/report/index.html").read_text()
    assert {
        row["headroom"]
        for row in csv.DictReader((tmp_path / "runs/r/board.csv").read_text().splitlines())
    } == {""}


def test_a_reference_run_that_raises_costs_the_run_nothing(project, tmp_path, monkeypatch):
    (tmp_path / "plan.toml").write_text(TOY)

    def raises(*args, **kwargs):
        raise RuntimeError("no memory left")

    monkeypatch.setattr("bench.analysis.headroom.measure_planned", raises)
    code, out, err = project("run", "plan.toml", "--name", "r", "--no-report", "--in-process")
    assert code == 0
    assert "headroom was not measured: " in err
    assert "no memory left" in err
    assert "toy random:0" in out


@pytest.mark.parametrize("images", ["1", "-3"], ids=["one", "negative"])
def test_a_headroom_of_no_images_is_a_mistake_of_the_plan(project, tmp_path, images):
    (tmp_path / "plan.toml").write_text(
        PLAN.replace("schema = 1", f"schema = 1\nheadroom = {images}")
    )
    code, _, err = project("plan", "plan.toml")
    assert code == 2
    assert "headroom" in err
    assert "at least 2 images" in err


def test_what_was_computed_again_is_left_out(after, tmp_path):
    assert after("headroom", "r", "--images", "2", "--times", "2")[0] == 0
    path = tmp_path / "runs/r/headroom.json"
    document = json.loads(path.read_text())
    key = next(iter(document["entries"][0]["sources"]))
    document["entries"][0]["sources"][key] = "0" * 64
    path.write_text(json.dumps(document))
    folder = RunFolder(tmp_path / "runs/r")
    assert read_headroom(folder, 0, read_plan(folder).boards[0]) == []


def shown(folder):
    """Whether the board of a run shows a headroom of its target."""
    (standing,) = load_boards(folder)[0].standings
    return standing.headroom is not None


def test_it_is_shown_only_beside_the_rows_that_it_was_held_against(project, tmp_path):
    toy = TOY.replace("headroom = 3", "").replace("square", "onward")
    (tmp_path / "plan.toml").write_text(toy)
    (tmp_path / "more.toml").write_text(toy.replace("onward", "square"))
    for name in ("plan", "more"):
        command = "run", f"{name}.toml", "--name", name, "--no-report", "--in-process"
        code, _, err = project(*command)
        assert code == 0, err
    merge = "merge", "runs/plan", "--out", "runs/both", "--no-report"
    assert project(*merge)[0] == 0
    assert project("headroom", "both", "--images", "2", "--times", "2")[0] == 0
    run = RunFolder(tmp_path / "runs/both")
    assert shown(run.path)
    withdraw(run, "pry", "made with the wrong mask")
    assert not shown(run.path)
    withdraw(run, "pry", "")
    assert shown(run.path)
    assert project(*merge, "runs/more")[0] == 0
    assert not shown(run.path)  # the new row may be the strongest


def test_a_plan_that_asks_for_it_gets_it_again_after_another_attack(project, tmp_path):
    for more in ("", '[[attack]]\nuse = "onward"\n'):
        (tmp_path / "plan.toml").write_text(f"{TOY}{more}")
        plan = load_plan(tmp_path / "plan.toml")
        execute(RunRequest(plan, "", tmp_path, name="r", renew=True, in_process=True))
        found = measure_planned(RunFolder(tmp_path / "r"))
        assert found is not None
        assert len(found.entries[0].sources) == 2 + bool(more)
        assert measure_planned(RunFolder(tmp_path / "r")) is None


REMEMBERING = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
budget = 9
threat = { norm = "linf", eps = "8/255" }
audit = 1
[[target]]
use = "toy"
label = "first"
weights = "random:0"
params = { seed = 3 }
[[target]]
use = "toy"
label = "second"
weights = "random:0"
[[attack]]
use = "hoarder"
"""

HANGING = (
    TOY.partition("[[attack]]")[0].replace("headroom = 3", 'headroom = 3\n[run]\ndeadline = "90s"')
    + '[[attack]]\nuse = "mischief"\nlabel = "mischief"\nparams = { deed = "hang-at-more" }\n'
)
"""An attack that ends at the budget of the run, and not at that of its reference."""


def test_what_an_attack_remembers_of_one_target_is_not_the_reference_of_the_next(
    project, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(str(SITE))
    registry.providers.cache_clear()
    (tmp_path / "plan.toml").write_text(REMEMBERING)
    assert project("run", "plan.toml", "--name", "r", "--no-report")[0] == 0
    code, _, err = project("headroom", "r", "--images", "6")
    assert code == 0, err
    (board,) = read_plan(RunFolder(tmp_path / "runs" / "r")).boards
    found = read_headroom(RunFolder(tmp_path / "runs" / "r"), 0, board)
    registry.providers.cache_clear()
    gains = {entry.target: entry.gain for entry in found}
    # Of the 7 blocks that are closed on these images its own signs open one, those of "first" three.
    assert gains == {"first": 0.0, "second": pytest.approx(1 / 7)}


def test_a_reference_run_that_hangs_is_given_up(project, tmp_path, monkeypatch):
    def hurried(*args, deadline, **kwargs):
        assert deadline == 90
        return measure_planned(*args, deadline=0.3, **kwargs)

    monkeypatch.setattr("bench.analysis.headroom.measure_planned", hurried)
    monkeypatch.syspath_prepend(str(SITE))
    registry.providers.cache_clear()
    (tmp_path / "plan.toml").write_text(HANGING)
    code, out, err = project("run", "plan.toml", "--name", "r", "--no-report")
    registry.providers.cache_clear()
    assert code == 0, err
    assert (
        "headroom was not measured: PluginError: 'toy random:0 / mischief' took longer than 3 s"
        in err
    )
    assert "toy random:0" in out
