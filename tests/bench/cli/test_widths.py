"""Tables at 80, 100 and 140 columns: every name, flag and needed number is whole, nothing sticks
out; and the same as JSON."""

import io
import json
import re
from dataclasses import replace

import pytest
from measured import baseline, cell, with_cells
from rich.console import Console
from rich.text import Text
from synthetic import full_board

from bench.cli.headroom import headroom_table
from bench.cli.latency import latency_table
from bench.cli.show import _cell
from bench.cli.transfer import transfer_table
from bench.results.headroom import HeadroomEntry
from bench.results.records import Transferred
from bench.results.stats import Estimate
from bench.store.latency import Timed
from bench.terminal import FittedColumn, FittedTable, folded
from reports.sheets import flat
from reports.tables import render_table

BETWEEN = pytest.mark.slow  # neither the narrowest, which leaves out columns, nor the widest
WIDTHS = pytest.mark.parametrize(
    "width", [80, pytest.param(100, marks=BETWEEN), 140], ids=lambda width: f"{width}-columns"
)
LONG = "autoenergy-split mask_grad=ste, steps=250, restarts=4"
TARGET = "sdn-tf-efficientnet-lite0-ic-only-with-a-label"
DEFENSE = "randomised-thresholds sigma=0.05, seed=3"
RUN = ("run", "plan.toml", "--name", "r", "--in-process", "--no-report")


def lines(shown):
    return shown.splitlines()


def unbroken(shown):
    """What was printed without line breaks and spaces, so that folded names are whole again."""
    return re.sub(r"\s+", "", shown)


def printed(renderable, width):
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()


@WIDTHS
def test_a_board_loses_no_name_and_no_flag(width):
    board = full_board(n=12)
    flags = ("hard-masks", "misleading-gradient", "shrinks-with-radius")
    cells = (replace(board.cells[0], attack=LONG, flags=flags), *board.cells[1:])
    shown = printed(render_table(replace(board, cells=cells), width), width)
    assert max(map(len, lines(shown))) <= width
    for text in (LONG, *(f"!{flag}" for flag in flags), *(one.attack for one in board.cells)):
        assert unbroken(text) in unbroken(_first_columns(shown))
    assert "recovery" in shown
    assert ("left out for want of room: PSNR, SSIM, evals" in shown) == (width == 80)
    assert ("evals" in shown.split("left out")[0]) == (width > 80)


def _first_columns(shown):
    """The table's rows without their numbers: names stand in the second column."""
    kept = []
    for line in lines(shown):
        kept.append(re.split(r"\s{2,}(?=[\d–−])", line.lstrip("0123456789– "))[0])
    return "\n".join(kept)


def test_columns_give_way_by_importance():
    columns = (
        FittedColumn("name", name=True),
        FittedColumn("needed"),
        FittedColumn("useful", 1),
        FittedColumn("nice", 2),
    )
    rows = [["a-name-of-some-length", "12345678", "12345678", "12345678"]]
    for width, left_out in (
        (60, []),
        (44, ["nice"]),
        (30, ["useful", "nice"]),
        (12, ["useful", "nice"]),
    ):
        fitted = FittedTable(columns, rows, width)
        assert fitted.left_out == left_out
        shown = printed(fitted.table(), max(width, 14))
        assert "12345678" in shown
        assert (
            "a-name-of-some-length" in unbroken(re.sub("12345678|name needed", "", shown))
            or width < 20
        )


def test_names_break_at_their_joints():
    text = Text("apgd-margin:l2 !hard-masks")
    assert folded(text, 26).plain == text.plain
    assert folded(text, 16).plain == "apgd-margin:l2\n!hard-masks"
    assert folded(text, 12).plain == "apgd-margin:\nl2\n!hard-masks"
    assert folded(Text("abcdefgh"), 3).plain == "abc\ndef\ngh"
    assert folded(Text("漢字漢字"), 4).plain == "漢字\n漢字"
    assert folded(Text("a b"), 1).plain == "a\nb"


@pytest.fixture
def at(gatebench, monkeypatch):
    """Run a command in a terminal of some width."""

    def call(width, *arguments):
        monkeypatch.setenv("COLUMNS", str(width))
        code, out, err = gatebench(*arguments)
        assert code == 0, err
        return out

    return call


@WIDTHS
def test_commands_that_print_tables_keep_to_the_width(at, width):
    ended = at(width, *RUN)
    shown = at(width, "show", "r")
    assert ended.endswith(shown)
    for out in (
        shown,
        at(width, "plan", "plan.toml"),
        at(width, "plan", "plan.toml", "--verbose"),
        at(width, "compare", "r", "r"),
    ):
        assert "wander" in out
        _check_width(out, width)
    for arguments in (["list"], ["list", "attacks"], ["list", "suites"], ["weights", "list"]):
        _check_width(at(width, *arguments), width)
    assert "autoenergy-split" in unbroken(at(width, "list"))
    names = _first_column(at(width, "weights", "list"))
    assert "sdn-resnet-20-joint@cifar10-jpeg" in names


def _first_column(out):
    """The names of a table whose other columns are numbers."""
    rows = [line for line in lines(out) if not line.startswith("  ")]
    parts = [re.split(r"\s{2,}", line.strip())[0] for line in rows]
    return unbroken("".join(parts))


def _check_width(out, width):
    """Tables keep to the width; sentences are wrapped by the terminal itself."""
    for line in lines(out):
        if not re.match(r"\d+ cells in|forward-eq\.:|'gatebench|\[\d", line):
            assert len(line) <= width, line


def _names(shown, *heads):
    """The whole names of a table's only row, whose first columns hold names under `heads`."""
    first, *rest = lines(shown)
    starts = [first.index(head) for head in heads]
    return [
        unbroken("".join(re.split(r"\s{2,}", line[start:end].strip())[0] for line in rest))
        for start, end in zip(starts, [*starts[1:], None], strict=True)
    ]


@WIDTHS
@pytest.mark.parametrize("gain", [0.0123, None], ids=["measured", "undefined"])
def test_headroom_loses_no_name_and_no_number(width, gain):
    entry = HeadroomEntry(0, TARGET, DEFENSE, LONG, 16, 10, 1500, 0.5, gain, -0.5, 0.5, {})
    shown = printed(headroom_table([entry], width).table(), width)
    assert max(map(len, lines(shown))) <= width
    assert _names(shown, "target", "reference attack") == [
        unbroken(f"{TARGET} + {DEFENSE}"),
        unbroken(f"{LONG} at 1500"),
    ]
    assert ("50.0%" in shown) == ("+1.23" in shown) == (gain is not None)
    assert ("[-50.00, 50.00]" in shown) == (gain is not None)


@WIDTHS
def test_latency_loses_no_name_and_no_number(width):
    bare = Timed(f"{TARGET}-{LONG}", DEFENSE, 12345.678, 23456.789, 12.3456, 16, 5)
    shown = printed(latency_table([bare], width).table(), width)
    assert max(map(len, lines(shown))) <= width
    assert _names(shown, "target") == [unbroken(f"{TARGET}-{LONG} + {DEFENSE}")]
    for number in ("12345.68 ms", "23456.79 ms", "x12.35"):
        assert number in shown
    shown = printed(latency_table([replace(bare, ratio=None)], width).table(), width)
    assert "x12" not in shown


@WIDTHS
@pytest.mark.parametrize("value", [0.987, None], ids=["measured", "undefined"])
def test_transfer_loses_no_name_and_no_recovery(width, value):
    victim = f"{TARGET} + {DEFENSE}"
    pair = Transferred(TARGET, LONG, victim, Estimate(value, 0.9, 1.0), 579804372.0)
    table = transfer_table([pair], width)
    shown = printed(table.table(), width)
    assert max(map(len, lines(shown))) <= width
    assert _names(shown, "images of", "attack", "on  ") == list(
        map(unbroken, (TARGET, LONG, victim))
    )
    assert ("98.7%" in shown) == (value is not None)
    assert ("579,804,372" in shown) == ("mean MACs" not in table.left_out)


@WIDTHS
def test_commands_that_measure_keep_to_the_width(at, width):
    at(width, *RUN)
    for arguments, name in (
        (["latency", "r", "--images", "1", "--repeats", "1"], "toy random:0"),
        (["headroom", "r", "--images", "2", "--times", "2"], "wander at 18"),
        (["transfer", "r", "--no-report"], "wander"),
    ):
        table = [line for line in lines(at(width, *arguments)) if "  " in line.strip()]
        assert max(map(len, table)) <= width
        assert name in "\n".join(table)


LABEL = "-".join(["a-label-of-many-parts"] * 6)


@pytest.fixture
def of_long_names(gatebench, tmp_path):
    """A run whose target has a label longer than a line."""
    plan = tmp_path / "plan.toml"
    plan.write_text(plan.read_text().replace('"random:0"', f'"random:0"\nlabel = "{LABEL}"'))
    assert gatebench(*RUN)[0] == 0


@WIDTHS
def test_what_is_said_in_sentences_is_whole(gatebench, of_long_names, monkeypatch, width):
    """Commands without tables of their own leave the breaking of lines to the terminal."""
    withdrawal = ("withdraw", "r", "wander", "--no-report")
    commands = (
        ("baseline", "r", "--out", "base.json"),
        ("verify", "r", "--seed", "0", "--images", "1"),
        ("merge", "r", "--out", "runs/all-{}", "--no-report"),
        (*withdrawal, "--reason", f"{LABEL} {LABEL}"),
        (*withdrawal, "--undo"),
    )
    for arguments in commands:
        said = []
        for columns in (width, 400):
            monkeypatch.setenv("COLUMNS", str(columns))
            code, out, err = gatebench(*(part.format(columns) for part in arguments))
            assert code == 0, err
            sentences = [line for line in lines(out + err) if "  " not in line.strip()]
            said.append([line for line in sentences if len(line) > width])
            assert not any("more characters" in line for line in lines(out + err))
            tables = [line for line in lines(out) if "  " in line.strip()]
            assert max(map(len, tables), default=0) <= columns
            if arguments[0] == "withdraw":
                assert LABEL in unbroken(out)
        assert set(said[0]) <= set(said[1]), "the same sentences at every width"


@WIDTHS
def test_the_diagnosis_is_whole(gatebench, monkeypatch, width):
    from bench.cli import doctor

    detail = "/".join(["a-folder"] * 100)
    monkeypatch.setattr(
        doctor, "diagnose", lambda: iter([doctor.Check("weights", LABEL, "note", detail)])
    )
    monkeypatch.setenv("COLUMNS", str(width))
    code, out, err = gatebench("doctor")
    assert code == 0, err
    assert f"{LABEL} {detail}" in out


@WIDTHS
def test_a_verdict_keeps_to_the_width(width, monkeypatch, capsys):
    import numpy as np

    from bench.regression.check import check
    from reports.verdicts import Verdicts

    monkeypatch.setenv("COLUMNS", str(width))
    before = baseline([cell(np.random.default_rng(0))])
    now = with_cells(
        before,
        lambda one: replace(one, adversarial_macs=np.minimum(one.adversarial_macs + 100, 1000)),
    )
    Verdicts().terminal(check(before, now))
    out = capsys.readouterr().out
    table = out.split("check:")[0]
    assert "WORSE" in table
    assert "surviving saving" in re.sub(r"\s+", " ", table)
    assert max(map(len, lines(table))) <= width


def test_json_says_of_a_cell_what_the_sheet_says():
    board = full_board(n=8)
    one = replace(board.cells[0], psnr=100.0, pooled_psnr=46.0, unchanged=6)
    (row,), found = flat(replace(board, cells=(one,))), _cell(one)
    shared = [name for name in found if name in row and not isinstance(found[name], (dict, list))]
    assert {"psnr", "pooled_psnr", "unchanged", "clean_macs", "linf"} <= set(shared)
    assert [found[name] for name in shared] == [row[name] for name in shared]


def test_json_of_what_is_shown(gatebench, tmp_path):
    assert gatebench(*RUN)[0] == 0
    _, out, _ = gatebench("show", "r", "--json", "-")
    board = json.loads(out)["boards"][0]
    assert [one["attack"] for one in board["cells"]] == ["still", "wander"]
    assert board["cells"][0]["recovery"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert board["cells"][0]["n"] == 6
    assert gatebench("show", "r", "--json", "board.json")[0] == 0
    assert json.loads((tmp_path / "board.json").read_text())["boards"] == [board]
    _, out, _ = gatebench("plan", "plan.toml", "--json", "-")
    plan = json.loads(out)
    assert [one["label"] for one in plan["boards"][0]["cells"]] == [
        "toy random:0 / still",
        "toy random:0 / wander",
    ]
    assert plan["forward_equivalents"] == 108
    assert plan["seconds"] > 0, "after any run, however small"
    _, out, _ = gatebench("list", "--json", "-")
    assert "gradauto" in json.loads(out)["attacks"]
    _, out, _ = gatebench("list", "attacks", "gradauto", "--json", "-")
    assert json.loads(out)["gradauto"]["parameters"]["K"].startswith("K: float")
    _, out, _ = gatebench("list", "weights", "--json", "-")
    assert json.loads(out)["skipnet-20-budget@digits-m"]["target"] == "skipnet"
    _, out, _ = gatebench("list", "suites", "--json", "-")
    assert json.loads(out)["quickstart"]["summary"]


def test_a_plan_tells_its_time_after_a_small_run(gatebench, monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    assert "time unknown before a first run here" in gatebench("plan", "plan.toml")[1]
    assert gatebench(*RUN)[0] == 0
    _, out, _ = gatebench("plan", "plan.toml")
    assert re.search(r"about ~\d+ s of one worker's time \(~: from a small run\)", out)


def test_quiet_and_verbose(gatebench):
    code, out, err = gatebench(*RUN, "--quiet")
    assert (code, out, err) == (0, "", "")
    code, out, _ = gatebench(*RUN, "--fresh", "--verbose")
    assert re.search(r"\[3/12 images\] toy random:0 / still.*, \d+\.\d s", out)


def test_a_part_of_a_run_goes_on_in_it(gatebench, tmp_path):
    """--only where there is a run of the whole plan computes what matches, and nothing else."""
    assert gatebench(*RUN)[0] == 0
    plan = (tmp_path / "runs/r/plan.json").read_bytes()
    cells = sorted((tmp_path / "runs/r/cells").iterdir())
    for folder in cells:
        for file in folder.iterdir():
            file.unlink()
    code, out, err = gatebench(*RUN, "--only", "wander")
    assert code == 0, err
    assert "6 images in 1 cell to do, 0 there already" in out
    assert (tmp_path / "runs/r/plan.json").read_bytes() == plan
    assert sum((folder / "cell.json").is_file() for folder in cells) == 1
    assert "still missing" in out
    code, out, _ = gatebench(*RUN)
    assert "6 images in 1 cell to do, 6 there already" in out
    code, _, err = gatebench(*RUN, "--only", "wander", "--images", "5")
    assert code == 5
    assert "holds another plan" in err


def test_a_user_has_settings(gatebench, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("GATEBENCH_HOME", str(home))
    (home / "config.toml").write_text(f'out = "{tmp_path}/elsewhere"\ndevice = "cpu"\n')
    (tmp_path / "plan.toml").write_text(
        (tmp_path / "plan.toml").read_text().replace('device = "cpu"\n', "")
    )
    assert gatebench(*RUN)[0] == 0
    assert (tmp_path / "elsewhere/r/plan.json").is_file()
    assert gatebench("show", "r")[0] == 0
    monkeypatch.setenv("GATEBENCH_OUT", str(tmp_path / "third"))
    assert gatebench("show", "r")[0] == 5
    assert gatebench(*RUN, "--out", str(tmp_path / "elsewhere"))[0] == 0
    monkeypatch.setenv("GATEBENCH_DEVICE", "cuda:99")
    code, _, err = gatebench("run", "plan.toml", "--name", "s", "--in-process")
    assert code == 2
    assert "'cuda:99' is not there" in err
    assert (
        gatebench(
            "run", "plan.toml", "--name", "s", "--in-process", "--device", "cpu", "--no-report"
        )[0]
        == 0
    )
    (home / "config.toml").write_text("oot = 1\ndevice = 3\n")
    code, _, err = gatebench("list")
    assert code == 0, "what needs no settings needs none that can be read"
    code, _, err = gatebench("show", "r")
    assert code == 2
    assert "unknown key 'oot'; did you mean 'out'?" in err
    assert "device is a text in quotes, got 3" in err


def test_the_shell_completes_commands_and_kinds(gatebench, monkeypatch):
    monkeypatch.setenv("_GATEBENCH_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "gatebench li")
    monkeypatch.setenv("COMP_CWORD", "1")
    assert gatebench()[1].split() == ["plain,list"]
    monkeypatch.setenv("COMP_WORDS", "gatebench list at")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert gatebench()[1].split() == ["plain,attacks"]
    monkeypatch.setenv("_GATEBENCH_COMPLETE", "bash_source")
    assert "_gatebench_completion" in gatebench()[1]
