"""The gate as a command: pass, regression, refusal and error, each with its exit code and its
files."""

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from measured import with_cells

from bench.regression.baseline import Baseline

NAMED = ("--name", "r", "--in-process", "--no-report")
RUN = ("run", "plan.toml", *NAMED)
CHECK = ("check", "plan.toml", "--name", "r", "--in-process", "--baseline", "base.json")
THREAT = 'protocol.threat={norm="linf",eps="128/255"}'
LARGER = 'attack=[{use="still"},{use="wander",label="wander",params={step=0.5}}]'
FILES = ("--junit", "out/check.xml", "--json", "out/check.json", "--markdown", "out/check.md")


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Where the first of these tests leaves its run for the others."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture
def measured(gatebench, tmp_path, kept):
    """A finished run "r" of 40 images with its baseline in base.json."""
    if not (kept / "base.json").is_file():
        _measure(gatebench, tmp_path)
        shutil.copytree(tmp_path, kept, dirs_exist_ok=True)
    else:
        shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path / "base.json"


def _measure(gatebench, folder):
    path = folder / "plan.toml"
    text = path.read_text().replace("images = 6", "images = 40")
    path.write_text(text.replace("batch = 3", "batch = 20").replace("shard = 3", "shard = 20"))
    assert gatebench(*RUN)[0] == 0
    code, out, _ = gatebench("baseline", "r", "--out", "base.json")
    assert code == 0
    assert "base.json: 2 cells, 40 images" in out


def cheaper(path, share):
    """The baseline of a time when the attack won less of the ceiling."""
    before = Baseline.read(path)
    with_cells(
        before,
        lambda one: (
            replace(one, adversarial_macs=one.adversarial_macs - int(share * one.ceiling))
            if not one.control
            else one
        ),
    ).write(path)


def flowing(text):
    """Without the line breaks of the terminal."""
    return " ".join(text.split())


def files_of(folder):
    return {path.name: path.read_bytes() for path in sorted((folder / "out").iterdir())}


def test_nothing_changed_passes_twice_with_the_same_bytes(gatebench, measured, tmp_path):
    found = []
    for extra in ((), ("--fresh",)):
        code, out, err = gatebench(*CHECK, *FILES, *extra)
        assert code == 0, err
        assert "none worse than allowed: pass" in out
        found.append(files_of(tmp_path))
        gatebench("baseline", "r", "--out", "again.json")
        assert (tmp_path / "again.json").read_bytes() == measured.read_bytes()
    assert found[0] == found[1]
    assert set(found[0]) == {"check.xml", "check.json", "check.md"}
    suite = ET.fromstring(found[0]["check.xml"])[0]
    assert (suite.get("failures"), suite.get("errors")) == ("0", "0")
    assert int(suite.get("tests")) == len(json.loads(found[0]["check.json"])["comparisons"]) > 2


def test_a_regression_names_what_got_worse(gatebench, measured, tmp_path):
    cheaper(measured, 0.1)
    code, out, _ = gatebench(*CHECK, *FILES)
    assert code == 8
    (summary,) = [line for line in out.splitlines() if line.startswith("check: REGRESSION")]
    assert "toy random:0 / wander: surviving saving" in summary
    assert "-10.0 points" in summary
    assert "the target itself is unchanged, so it is the attack that became stronger" in flowing(
        out
    )
    found = files_of(tmp_path)
    (failure,) = ET.fromstring(found["check.xml"]).iter("failure")
    assert "surviving saving" in failure.get("message")
    assert not json.loads(found["check.json"])["passed"]
    assert "something got worse" in found["check.md"].decode()
    code, _, _ = gatebench(*CHECK, "--effect", "surviving-saving=0.11")
    assert code == 0


def test_a_finished_run_is_held_without_running_and_json_goes_to_the_terminal(gatebench, measured):
    code, out, err = gatebench("check", "--run", "r", "--baseline", "base.json", "--json", "-")
    assert code == 0
    assert json.loads(out)["passed"]
    assert "pass" in err


def test_another_plan_is_refused_before_it_runs(gatebench, measured, tmp_path):
    changes = {
        "protocol.budget=10": "budget was 9, is 10",
        "protocol.batch=4": "batch was 20, is 4",
        "protocol.images=30": "images was 40, is 30",
        'protocol.threat={norm="linf",eps="4/255"}': "threat was linf<=8/255, is linf<=4/255",
        "protocol.seeds=[1]": "seed was 0, is 1",
        'attack=[{use="still"}]': "the run has no cell 'toy random:0 / wander'",
        'attack=[{use="still"},{use="wander",label="wander",params={step=0.5}}]': "step was ",
    }
    for number, (change, said) in enumerate(changes.items()):
        arguments = (
            "check",
            "plan.toml",
            "--name",
            f"n{number}",
            "--in-process",
            "--baseline",
            "base.json",
        )
        code, _, err = gatebench(*arguments, "--set", change, *FILES)
        assert code == 9, (change, err)
        assert said in err, (change, err)
        assert not (tmp_path / "runs" / f"n{number}").exists(), (
            "nothing was computed, and the name is still free"
        )
        suite = ET.fromstring(files_of(tmp_path)["check.xml"])[0]
        assert suite.get("errors") == "1"
        assert json.loads(files_of(tmp_path)["check.json"])["refused"]


def test_a_baseline_that_is_none_is_refused(gatebench, measured):
    whole = measured.read_text()
    newer = json.dumps({**json.loads(whole), "schema": 99})
    for text, said in (
        (whole[:-40], "a damaged one"),
        (whole.replace('"images": 40', '"images": 41'), "altered after it was written"),
        (newer, "schema 99, this gatebench reads up to 1"),
        ("{}", "is no baseline of gatebench"),
    ):
        measured.write_text(text)
        code, _, err = gatebench(*CHECK)
        assert code == 9
        assert said in err
        assert "Traceback" not in err
    measured.unlink()
    code, _, err = gatebench(*CHECK)
    assert code == 9
    assert "there is no baseline base.json" in err


def test_a_run_that_fails_is_an_error_and_no_pass(gatebench, measured, tmp_path):
    text = (tmp_path / "plan.toml").read_text()
    (tmp_path / "plan.toml").write_text(
        text.replace(
            'use = "wander"', 'use = "mischief"\nlabel = "wander"\nparams = { deed = "shape" }'
        )
    )
    baseline = json.loads(measured.read_text())
    assert baseline["schema"] == 1
    code, _, err = gatebench(
        "check", "plan.toml", "--name", "bad", "--in-process", "--baseline", "base.json", *FILES
    )
    assert code == 9, err  # another attack under the same name
    gatebench("run", "plan.toml", "--name", "bad", "--in-process", "--no-report")
    code, _, err = gatebench("baseline", "bad", "--out", "bad.json")
    assert code == 9
    assert "is not whole" in err
    assert "invalid" in err
    assert not (tmp_path / "bad.json").exists()


def test_what_other_code_made_is_computed_again(gatebench, measured, tmp_path, monkeypatch):
    import bench.runs.run

    shard = next((tmp_path / "runs/r").glob("cells/*/shard-*"))
    before = shard.stat().st_mtime_ns
    assert gatebench(*CHECK)[0] == 0
    assert shard.stat().st_mtime_ns == before
    monkeypatch.setattr(bench.runs.run, "sources", lambda cell: {"target": "edited"})
    code, out, err = gatebench(*CHECK)
    assert code == 0, err
    assert "80 images in 2 cells to do" in out
    assert shard.stat().st_mtime_ns > before
    code, _, err = gatebench(*CHECK, "--keep")
    assert code == 2
    assert "check computes those again" in err


def test_a_name_that_another_plan_used_is_taken_over(gatebench, measured, tmp_path):
    assert (
        gatebench(
            "run",
            "plan.toml",
            "--name",
            "ci",
            "--in-process",
            "--no-report",
            "--set",
            "protocol.budget=7",
        )[0]
        == 0
    )
    arguments = ("check", "plan.toml", "--name", "ci", "--in-process", "--baseline", "base.json")
    code, out, err = gatebench(*arguments)
    assert code == 0, err
    assert "80 images in 2 cells to do" in out


def test_no_older_file_is_taken_for_the_result(gatebench, measured, tmp_path):
    for arguments, code in (
        (("check", "nowhere.toml", "--baseline", "base.json"), 2),
        ((*CHECK, "--effect", "nothing=0.1"), 2),
        ((*CHECK, "--alpha", "0"), 2),
        (("check", "--run", "nowhere", "--baseline", "base.json"), 5),
    ):
        assert gatebench(*CHECK, *FILES)[0] == 0
        assert gatebench(*arguments, *FILES)[0] == code
        assert ET.fromstring(files_of(tmp_path)["check.xml"])[0].get("errors") == "1", arguments
    code, _, err = gatebench(*CHECK, "--json", "-", "--markdown", "-")
    assert code == 2
    assert '"-" was given twice' in err


def test_json_on_the_terminal_stands_alone(gatebench, measured):
    code, out, err = gatebench(*CHECK, "--fresh", "--json", "-")
    assert code == 0
    assert json.loads(out)["passed"]
    assert "80 images in 2 cells to do" in err


def test_an_empty_baseline_is_none(gatebench, tmp_path):
    exclude = "--set", 'exclude=[{target="toy random:0",reason="why"}]'
    assert gatebench(*RUN, *exclude)[0] == 0
    code, _, err = gatebench("baseline", "r", "--out", "base.json")
    assert code == 9
    assert "no cell with numbers" in err


def test_mistakes_on_the_command_line(gatebench, measured):
    code, _, err = gatebench(*CHECK, "--effect", "surviving-savings=0.1")
    assert code == 2
    assert "did you mean 'surviving-saving'?" in err
    code, _, err = gatebench(*CHECK, "--effect", "surviving-saving")
    assert code == 2
    assert "expected MEASURE=SHARE" in err
    code, _, err = gatebench("baseline", "rr")
    assert code == 5
    assert "did you mean 'r'?" in err


def test_compare_in_every_form(gatebench, measured, tmp_path):
    code, out, err = gatebench(*RUN[:2], "--name", "s", *RUN[4:], "--set", THREAT, "--set", LARGER)
    assert code == 0, err
    forms = ("--json", "c.json", "--markdown", "c.md", "--html", "page", "--images", "2")
    code, out, err = gatebench("compare", "r", "s", *forms)
    assert code == 0, err
    assert "measured otherwise: threat linf<=8/255 and linf<=128/255" in flowing(out)
    assert "page: page" in out
    document = json.loads((tmp_path / "c.json").read_text())
    still, wander = sorted(document["changes"], key=lambda change: change["attack"])
    assert (still["dearer"], still["cheaper"]) == (0, 0)
    assert wander["dearer"] + wander["cheaper"] == len(wander["changed"]) > 0
    sizes = [abs(entry["now"] - entry["before"]) for entry in wander["changed"]]
    assert sizes == sorted(sizes, reverse=True)
    assert "| toy random:0 / wander |" in (tmp_path / "c.md").read_text()
    page = (tmp_path / "page/index.html").read_text()
    pictures = list((tmp_path / "page/pictures").iterdir())
    assert len(pictures) >= 2
    assert all(f"pictures/{picture.name}" in page for picture in pictures)
    assert wander["changed"][0]["id"] in page
    code, out, _ = gatebench("compare", "r", "r")
    assert code == 0
    code, _, err = gatebench("compare", "r", "nowhere")
    assert code == 5


def test_latency_stands_beside_macs_and_in_the_baseline(gatebench, tmp_path):
    text = (
        (tmp_path / "plan.toml")
        .read_text()
        .replace(
            '[[attack]]\nuse = "still"', '[[defense]]\nuse = "jpeg"\n[[attack]]\nuse = "still"'
        )
    )
    (tmp_path / "plan.toml").write_text(text)
    assert gatebench(*RUN)[0] == 0
    code, out, err = gatebench("latency", "r", "--images", "2", "--repeats", "2")
    assert code == 0, err
    assert "toy random:0 + jpeg" in out
    document = json.loads((tmp_path / "runs/r/latency.json").read_text())
    bare, coded = document["entries"]
    assert (bare["defense"], coded["defense"]) == ("", "jpeg")
    assert bare["ratio"] is None
    assert coded["ratio"] == pytest.approx(coded["median_ms"] / bare["median_ms"], rel=1e-3)
    assert min(bare["median_ms"], coded["adversarial_ms"]) > 0
    assert "median of 2 images, 2 rounds" in out
    gatebench("baseline", "r", "--out", "base.json")
    kept = Baseline.read(tmp_path / "base.json").latency
    assert len(document.pop("cells")) == 2  # what the times were made of is the run's own
    assert json.loads(json.dumps(kept.document())) == document
    code, out, _ = gatebench("latency", "r", "--images", "16", "--repeats", "1")
    assert "median of 6 images, 1 round" in out, "the run has no more"
    document = json.loads((tmp_path / "runs/r/latency.json").read_text())
    assert [one["images"] for one in document["entries"]] == [6, 6]
