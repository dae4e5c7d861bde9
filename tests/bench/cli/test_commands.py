"""The command line: one clear message and the documented exit code for everything that can go
wrong."""

import os
import re
import signal

import pytest

from bench.cli import COMMANDS
from bench.errors import EXIT_CODES

RUN = ("run", "plan.toml", "--name", "r", "--in-process", "--no-report")


def test_help_names_every_command_and_exit_code(gatebench):
    code, out, _ = gatebench("--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"^  {command}\s", out, re.MULTILINE)
    for number, meaning in EXIT_CODES.items():
        assert re.search(rf"^  {number}\s+{re.escape(meaning[:30])}", out, re.MULTILINE)
    for command in COMMANDS:
        code, out, _ = gatebench(command, "--help")
        assert code == 0
        assert "Usage: gatebench" in out


def test_a_run_from_end_to_end(gatebench, tmp_path):
    code, out, err = gatebench(*RUN)
    assert code == 0, err
    assert "12 images in 2 cells to do, 0 there already" in out
    assert re.search(r"still \(control\)\s+0\.0\s%", out)
    assert (tmp_path / "runs/r/board.parquet").is_file()
    code, out, _ = gatebench("show", "r")
    assert code == 0
    assert re.search(r"still \(control\)\s+0\.0\s%", out)
    code, out, _ = gatebench(*RUN)
    assert code == 0
    assert "0 images in 0 cells to do, 12 there already" in out
    code, _, err = gatebench(*RUN, "--images", "5")
    assert code == 5
    assert "holds another plan: [0].protocol.images was 6, is 5" in err
    code, _, err = gatebench("show", "rr")
    assert code == 5
    assert "there is no run 'rr'; did you mean 'r'?" in err


def test_plan_shows_and_runs_nothing(gatebench, tmp_path):
    code, out, _ = gatebench("plan", "plan.toml")
    assert code == 0
    assert "2 cells in 1 board, at most 108 forward-equivalents" in out
    assert re.search(r"toy random:0 +2 +0 +0 +<= 108 ", out)
    assert re.search(r"attacks: +still, wander", out)
    assert "one forward pass of one image" in out
    code, out, _ = gatebench("plan", "plan.toml", "-v")
    assert re.search(r"toy random:0\W+wander\W+random:0\W+6\W+<= 54", out)
    assert not (tmp_path / "runs").exists()


def test_the_name_defaults_to_the_protocol_and_the_plans_hash(gatebench, tmp_path):
    code, _, err = gatebench("run", "plan.toml", "--in-process", "--no-report", "--only", "still")
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"toy-pixels-test-linf8over255-b9-[0-9a-f]{6}", folder.name)


def test_a_data_set_by_its_full_name_has_a_run_of_its_own(gatebench, tmp_path):
    code, _, err = gatebench(
        "run",
        "plan.toml",
        "--in-process",
        "--no-report",
        "--set",
        "protocol.dataset=mischief/toy-pixels:test",
    )
    assert code == 0, err
    (folder,) = (tmp_path / "runs").iterdir()
    assert (folder / "plan.json").is_file()


PROCESS = pytest.mark.slow  # each is a process that imports torch; contracts are tested in one


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param(
            ["runn"], 2, "there is no command 'runn'; did you mean 'run'?", id="no-command"
        ),
        pytest.param(["run", "--imagse", "3"], 2, "--imagse", id="no-option"),
        pytest.param(["run", "nowhere.toml"], 2, "there is no file nowhere.toml", id="no-file"),
        pytest.param(
            ["run", "quikstart"],
            2,
            "unknown suite 'quikstart'; did you mean 'quickstart'?",
            id="no-suite",
        ),
        pytest.param(["run", "plan.toml", "--images", "0"], 2, "0", id="images-none"),
        pytest.param(
            ["run", "plan.toml", "--images", "41"],
            2,
            "41 asked for, but toy-pixels:test has 40",
            id="images-too-many",
        ),
        pytest.param(
            ["run", "plan.toml", "--set", "protocol.threat={norm='linf',eps='8/0'}"],
            2,
            "divides by zero",
            id="threat-by-zero",
        ),
        pytest.param(
            ["run", "plan.toml", "--set", "protocol.threat={norm='psnr',floor=100}"],
            2,
            "admits no change",
            id="threat-too-small",
        ),
        pytest.param(
            ["plan", "plan.toml", "--set", "protocol.threat={norm='psnr',floor=100}"],
            2,
            "admits no change",
            id="plan-threat-too-small",
        ),
        pytest.param(
            ["run", "plan.toml", "--only", "nothing"],
            2,
            "--only nothing: no cell has that in its label",
            id="only-nothing",
        ),
        pytest.param(
            ["run", "plan.toml", "--fresh", "--keep"], 2, "exclude each other", id="fresh-and-keep"
        ),
        pytest.param(
            ["run", "plan.toml", "--name", "../x"], 2, "a run is named in letters", id="name-above"
        ),
        pytest.param(
            ["run", "plan.toml", "--name", ".x"], 2, "a run is named in letters", id="name-hidden"
        ),
        pytest.param(
            ["run", "plan.toml", "--name", "a."], 2, "a run is named in letters", id="name-dot"
        ),
        pytest.param(
            ["run", "plan.toml", "--name", "NUL"], 2, "a run is named in letters", id="name-device"
        ),
        pytest.param(
            ["run", "plan.toml", "--name", "\udcff"],
            2,
            "a run is named in letters",
            id="name-of-bytes",
        ),
        pytest.param(
            ["run", "plan.toml", "--name", ""], 2, "a run is named in letters", id="name-empty"
        ),
        pytest.param(
            ["run", "plan.toml", "--device", "gpu"], 2, "unknown device 'gpu'", id="device-unknown"
        ),
        pytest.param(
            ["run", "plan.toml", "--device", "cuda:99", "--in-process"],
            2,
            "'cuda:99' is not there",
            id="device-not-there",
        ),
        pytest.param(
            ["run", "plan.toml", "--device", "cuda:x", "--in-process"],
            2,
            "cuda:x",
            id="device-no-number",
        ),
        pytest.param(
            ["run", "plan.toml", "--set", 'protocol.dataset="imagenet:val"', "--in-process"],
            3,
            "imagenet",
            id="no-data",
        ),
        pytest.param(["list", "atacks"], 2, "atacks", id="list-no-kind"),
        pytest.param(
            ["list", "attacks", "wonder"], 2, "did you mean 'wander'?", id="list-no-attack"
        ),
        pytest.param(
            ["list", "suites", "quikstart"], 2, "did you mean 'quickstart'?", id="list-no-suite"
        ),
        pytest.param(
            ["list", "weights", "nobody"], 2, "unknown weights 'nobody'", id="list-no-weights"
        ),
        pytest.param(["show", "nowhere"], 5, "there is no run 'nowhere'", id="show-no-run"),
        pytest.param(
            ["plugin", "test", "wonder"], 2, "did you mean 'wander'?", id="plugin-no-name"
        ),
        pytest.param(["plugin", "test", "broken"], 7, "this module leaves", id="plugin-broken"),
        pytest.param(
            ["plugin", "test", "mischief.nowhere:X"], 7, "cannot be imported", id="plugin-no-module"
        ),
        pytest.param(
            ["plugin", "test", "mischief.broken:Broken"],
            7,
            "this module leaves",
            id="plugin-broken-class",
        ),
        pytest.param(
            ["plugin", "test", "mischief.attacks:Unmade"],
            7,
            "none of target, attack, defense, data set, recipe, report",
            id="plugin-no-kind",
        ),
        pytest.param(
            ["plugin", "test", "wander", "--set", "step"],
            2,
            "expected KEY=VALUE",
            id="plugin-set-no-value",
        ),
        pytest.param(
            ["plugin", "test", "wander", "--set", "stp=3"],
            7,
            "cannot be made",
            id="plugin-set-no-parameter",
            marks=PROCESS,
        ),
        pytest.param(
            ["plugin", "test", "toy", "--weights", "random:x"],
            2,
            "random:x",
            id="plugin-bad-weights",
            marks=PROCESS,
        ),
    ],
)
def test_one_message_and_its_exit_code(gatebench, arguments, code, said):
    found, out, err = gatebench(*arguments)
    assert said in err, out + err
    assert found == code, err
    assert "Traceback" not in err


def test_listing_survives_broken_plugins(gatebench):
    code, out, _ = gatebench("list", "attacks")
    assert code == 0
    assert re.search(r"^absent\s+not described: only importing it would tell", out, re.MULTILINE)
    assert re.search(r"^rival/contested\s+Random starts", out, re.MULTILINE)
    assert re.search(r"^wander\s+Random starts.*\[presets: bold\]", out, re.MULTILINE)
    code, out, _ = gatebench("list", "attacks", "wander")
    assert code == 0
    assert "step: float = 0.02" in out
    assert "Preset wander:bold" in out
    for kind in ("targets", "defenses", "datasets", "suites", "weights", "recipes"):
        code, out, err = gatebench("list", kind)
        assert code == 0, err
        assert out.strip()


def test_plugin_test_of_a_sound_and_a_lying_plugin(gatebench):
    code, out, _ = gatebench("plugin", "test", "wander")
    assert code == 0
    assert "10 promises kept, 0 broken" in out
    code, out, err = gatebench("plugin", "test", "liar", "--set", "lie=mask")
    assert code == 7
    assert "FAIL  a run can open it" in out
    assert "macs(decisions) says" in out
    assert "does not keep its contract" in err


@pytest.mark.parametrize(
    ("arguments", "ends", "said"),
    [
        pytest.param(["toy"], 0, "0 broken", id="toy", marks=PROCESS),
        pytest.param(["monitor"], 0, "0 broken", id="monitor"),
        pytest.param(
            ["trick", "--set", "trick=another-network"],
            7,
            "FAIL  `undefended` is the network that it was given",
            id="another-network",
            marks=PROCESS,
        ),
        pytest.param(
            ["mischief", "--set", "deed=shape"],
            7,
            "expected images of shape",
            id="shape",
            marks=PROCESS,
        ),
    ],
)
def test_plugin_test_of_other_plugins(gatebench, arguments, ends, said):
    code, out, _ = gatebench("plugin", "test", *arguments)
    assert code == ends, out
    assert said in out


def test_ctrl_c_in_the_middle(gatebench, tmp_path, monkeypatch):
    import bench.runs.run

    tried = bench.runs.run.Run._compute

    def interrupted(self, tasks, listen):
        def heard(event):
            listen(event)
            if event.what == "done":
                signal.raise_signal(signal.SIGINT)

        tried(self, tasks * 1, heard)

    monkeypatch.setattr(bench.runs.run.Run, "_compute", interrupted)
    code, _, err = gatebench(*RUN)
    assert code == 130
    assert (
        f"everything finished is kept in {os.path.join('runs', 'r')}. The same command goes on from there."
        in err
    )
    monkeypatch.setattr(bench.runs.run.Run, "_compute", tried)
    code, out, err = gatebench(*RUN)
    assert code == 0, err
    assert re.search(r"in 2 cells to do, [1-9]\d* there already", out), out


def test_a_damaged_plan_json_is_told(gatebench, tmp_path):
    gatebench(*RUN)
    for text in ("{", "{}", "[]", '{"schema": 99}'):
        (tmp_path / "runs/r/plan.json").write_text(text)
        for command in (RUN, ("show", "r")):
            code, _, err = gatebench(*command)
            assert code == 5, (text, command, err)
            assert "plan.json" in err


def test_an_output_folder_that_cannot_be_made(gatebench, tmp_path):
    (tmp_path / "file").write_text("")
    code, _, err = gatebench(*RUN, "--out", str(tmp_path / "file" / "runs"))
    assert code == 6
    assert "cannot make" in err


@pytest.mark.slow  # processes that import torch, one of which hangs until its limit
@pytest.mark.parametrize(
    ("deed", "said"),
    [
        ("os._exit(0)", "exit code 0"),
        ("os.kill(os.getpid(), 11)", "signal 11"),
        ("time.sleep(99)", "hangs"),
    ],
)
def test_a_plugin_that_ends_or_blocks_its_test_has_failed_it(
    gatebench, tmp_path, monkeypatch, deed, said
):
    text = (
        "import os, time\nfrom dataclasses import dataclass\nfrom bench.api import Attack\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Bad(Attack):\n"
        f"    def perturb(self, view, images, labels, job):\n        {deed}\n        return images\n"
    )
    (tmp_path / "bad_deeds.py").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, _, err = gatebench("plugin", "test", "bad_deeds:Bad", "--deadline", "20")
    assert code == 7
    assert said in err


def test_completing_after_a_word_that_is_no_command_says_nothing(capsys):
    from click.shell_completion import ShellComplete

    from bench.cli import cli

    found = ShellComplete(cli, {}, "gatebench", "_C").get_completions(["nothing"], "ru")
    assert [item.value for item in found] == ["run"]
