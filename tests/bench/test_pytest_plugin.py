"""The pytest plugin, in projects of its own: it passes, it fails with numbers, under xdist too."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from measured import baseline, cell, with_cells

from bench.errors import DiskError, NotComparable
from bench.pytest_plugin import (
    Gatebench,
    Result,
    _Checked,
    assert_no_regression,
    assert_saving_survives,
)
from bench.regression.baseline import Baseline
from bench.results.records import BoardCell
from bench.results.stats import Estimate

EXAMPLE = Path(__file__).parents[2] / "examples" / "regression-test"


def result(saving, *, accuracy=0.9, folder=Path("r")):
    attacked = BoardCell(
        key="a" * 64,
        target="net",
        defense="cap",
        attack="gradauto",
        inputs={},
        status="ok",
        n=64,
        control=False,
        psnr=101.0,
        pooled_psnr=35.2,
        surviving_saving=saving,
        clean_saving=Estimate(0.4, 0.38, 0.42),
        clean_accuracy=Estimate(accuracy),
        recovery=Estimate(0.25),
    )
    milder = replace(attacked, attack="noise", surviving_saving=Estimate(0.39, 0.38, 0.4))
    board = SimpleNamespace(cells=(milder, attacked, replace(attacked, status="skipped")))
    return Result(folder, (board,))


def failure(call, *args, **others):
    with pytest.raises(pytest.fail.Exception) as failed:
        call(*args, **others)
    return str(failed.value)


def test_a_saving_that_survives_is_judged_under_the_strongest_attack():
    found = result(Estimate(0.30, 0.27, 0.33))
    assert found.strongest.attack == "gradauto"
    assert_saving_survives(found, at_least=0.30)
    said = failure(assert_saving_survives, found, at_least=0.31)
    assert "the surviving saving of net + cap is 30.0 %, below the 31.0 % asked for" in said
    assert "under gradauto: 30.0 % [27.0 %, 33.0 %] of 64 images' MACs" in said
    assert "saving 40.0 %, accuracy 90.0 %" in said
    assert "won back 25.0 % at 35.2 dB" in said
    said = failure(assert_saving_survives, found, at_least=0.30, confidently=True)
    assert "the lower end of the interval of the surviving saving of net + cap is 27.0 %" in said


@pytest.mark.parametrize(
    ("saved", "asked", "said"),
    [
        pytest.param(0.29996, 0.30, "29.996 %, below the 30.000 % asked for", id="near"),
        pytest.param(0.3 - 1e-9, 0.3, "29.9999999 %, below the 30.0000000 % asked", id="nearer"),
        pytest.param(0.2996, 0.3, "29.96 %, below the 30.00 % asked for", id="rounds-up"),
        pytest.param(0.29, 0.3, "29.0 %, below the 30.0 % asked for", id="far"),
    ],
)
def test_a_saving_below_what_is_asked_for_does_not_read_like_it(saved, asked, said):
    assert said in failure(assert_saving_survives, result(Estimate(saved)), at_least=asked)


def test_a_saving_that_arithmetic_alone_puts_below_survives():
    assert 1 - 0.8 < 0.2
    assert_saving_survives(result(Estimate(1 - 0.8)), at_least=0.2)


def test_numbers_are_written_as_on_boards():
    """An unchanged image has no finite PSNR, and what rounds to zero no sign."""
    found = result(Estimate(-0.0002, -0.0004, 0.1))
    same = replace(found.strongest, psnr=120.0, pooled_psnr=None)
    found = replace(found, boards=(SimpleNamespace(cells=(same,)),))
    said = failure(assert_saving_survives, found, at_least=0.1)
    assert "of net + cap is 0.0 %, below the 10.0 % asked for" in said
    assert "[0.0 %, 10.0 %]" in said
    assert "won back 25.0 % at no distortion" in said
    assert "saving 40.0 % -> 0.0 %" in repr(found)


def test_a_control_is_no_attack_and_nothing_passes_by_being_no_number():
    found = result(Estimate(0.30, 0.27, 0.33))
    control = replace(
        found.strongest, attack="identity", control=True, surviving_saving=Estimate(0.1)
    )
    board = SimpleNamespace(cells=(*found.boards[0].cells, control))
    assert replace(found, boards=(board,)).strongest.attack == "gradauto"
    alone = SimpleNamespace(cells=(control,))
    assert replace(found, boards=(alone,)).strongest.attack == "identity"
    assert "nan" in failure(assert_saving_survives, found, at_least=float("nan"))


def test_a_run_in_which_everything_was_skipped_is_no_pass():
    with pytest.raises(ValueError, match="no cell of this run has numbers"):
        assert_saving_survives(
            Result(Path("r"), (SimpleNamespace(cells=(SimpleNamespace(status="skipped"),)),)),
            at_least=0.0,
        )


def test_a_regression_fails_with_what_got_worse(tmp_path, monkeypatch):
    before = baseline([cell(np.random.default_rng(0))])
    before.write(tmp_path / "base.json")
    now = with_cells(
        before,
        lambda one: replace(one, adversarial_macs=np.minimum(one.adversarial_macs + 100, 1000)),
    )
    found = result(Estimate(0.3))
    monkeypatch.setattr(Baseline, "of_run", classmethod(lambda cls, folder: now))
    said = failure(assert_no_regression, found, tmp_path / "base.json")
    assert "check: REGRESSION" in said
    assert "net / gradauto: surviving saving" in said
    assert "run: r" in said
    assert_no_regression(found, tmp_path / "base.json", effects={"surviving-saving": 0.2})
    with pytest.raises(NotComparable, match="there is no baseline"):
        assert_no_regression(found, tmp_path / "none.json")
    updating = _Checked(found.folder, found.boards, update=True, root=tmp_path)
    assert_no_regression(updating, "new/none.json")
    assert (tmp_path / "new" / "none.json").read_bytes() == now.bytes()


def pytest_in(folder, *arguments, **variables):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(
        command,
        cwd=folder,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The example as somebody would have it: a folder of its own."""
    return shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("scratch") / "project")


def test_the_example_has_at_most_fifteen_lines_of_test():
    lines = (EXAMPLE / "tests/test_energy.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 15


@pytest.mark.slow  # a test run of its own, with attacks
def test_the_original_defense_passes_and_a_weakened_one_fails_with_numbers(project):
    passed = pytest_in(project)
    assert passed.returncode == 0, passed.stdout + passed.stderr
    assert "1 passed" in passed.stdout
    weakened = pytest_in(project, CAP="1.0")
    assert weakened.returncode == 1, weakened.stdout + weakened.stderr
    assert "check: REGRESSION" in weakened.stdout
    assert "surviving saving" in weakened.stdout
    deselected = pytest_in(project, "-m", "not gatebench")
    assert "1 deselected" in deselected.stdout


@pytest.mark.slow  # a test run of its own, with attacks
def test_workers_of_xdist_share_one_run(tmp_path):
    """Two workers ask for the same run at the same time; one computes, the other waits and finds it
    done."""
    (tmp_path / "test_two.py").write_text(
        "import pytest\n"
        "from bench.pytest_plugin import assert_saving_survives\n"
        "@pytest.mark.parametrize('number', [1, 2])\n"
        "def test_it(gatebench, number):\n"
        "    found = gatebench.run(target='skipnet-20-budget@digits-m', attack=['identity', 'gradauto'], images=8, batch=8, budget=12)\n"
        "    assert_saving_survives(found, at_least=0.01)\n"
        "    assert [cell.n for cell in found.cells] == [8, 8]\n"
    )
    ended = pytest_in(tmp_path, "-n", "2", "--gatebench-cache", "cache")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 passed" in ended.stdout
    runs = [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
    assert len(runs) == 1
    assert len(list(runs[0].glob("cells/*/cell.json"))) == 2


@pytest.mark.slow  # a test run of its own, with attacks
def test_an_attack_that_was_skipped_is_no_pass_and_torch_is_given_back(tmp_path):
    (tmp_path / "test_skipped.py").write_text(
        "import pytest, torch\n"
        "def test_it(gatebench):\n"
        "    torch.set_num_threads(2)\n"
        "    torch.manual_seed(7)\n"
        "    state = torch.get_rng_state()\n"
        "    with pytest.raises(Exception, match='do not run here, so nothing of them was measured: gradmdm:code'):\n"
        "        gatebench.run(target='skipnet-20-budget@digits-m', attack=['gradmdm:code', 'identity'], images=8, batch=8, budget=3)\n"
        "    assert torch.get_num_threads() == 2\n"
        "    assert torch.equal(torch.get_rng_state(), state)\n"
        "    assert not torch.are_deterministic_algorithms_enabled()\n"
    )
    ended = pytest_in(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.slow  # a test run of its own, with attacks
def test_mistakes_in_a_test_are_told_at_once(tmp_path):
    (tmp_path / "test_wrong.py").write_text(
        "def test_it(gatebench):\n    gatebench.run(target='skipnet-20-budget@digits-m', attack='gradato', defense='jpg', images=9999)\n"
    )
    ended = pytest_in(tmp_path)
    assert ended.returncode == 1
    for said in ("did you mean 'gradauto'?", "did you mean 'jpeg'?", "9999 asked for"):
        assert said in ended.stdout


def test_a_place_for_runs_is_needed(tmp_path):
    (tmp_path / "test_none.py").write_text("def test_it(gatebench):\n    pass\n")
    ended = pytest_in(tmp_path, "-p", "no:cacheprovider")
    assert "give one with --gatebench-cache FOLDER" in ended.stdout + ended.stderr
    ended = pytest_in(tmp_path, "--gatebench-images", "0")
    assert "--gatebench-images 0: at least 1" in ended.stdout + ended.stderr


def test_help_documents_the_options():
    told = pytest_in(EXAMPLE, "--help").stdout
    for option in ("images", "device", "data-root", "cache", "update-baselines"):
        assert f"--gatebench-{option}" in told
    assert "@pytest.mark.gatebench" in pytest_in(EXAMPLE, "--markers").stdout


@pytest.mark.parametrize("kind", ["file", "link to nothing"])
def test_a_cache_that_is_no_folder_is_named_with_the_option(tmp_path, kind):
    place = tmp_path / "cache"
    if kind == "file":
        place.write_text("kept")
    else:
        place.symlink_to(tmp_path / "gone")
    runs = Gatebench(folder=place)
    for call in (
        lambda: runs.run(target="skipnet-20-budget@digits-m"),
        lambda: runs.plan("quickstart"),
    ):
        with pytest.raises(DiskError, match=r"cannot make .*cache") as said:
            call()
        assert "--gatebench-cache" in said.value.hint
