"""Readers that go away, users without a home, full and read-only disks, plugins that sleep."""

import errno
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from measured import with_cells
from mischief_site import SITE, TOY_PLAN

from bench.cli import doctor, main
from bench.errors import DiskError
from bench.executors import processes
from bench.files.atomic import write_atomic
from bench.files.home import home
from bench.plugins import registry
from bench.regression.baseline import Baseline


def start(folder, environment, *arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def leave_after_one_line(process):
    """As `| head -1` does: read a line, then go away."""
    line = process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    return line, errors, process.wait(200)


@pytest.mark.slow  # several processes; the same of a verdict is quick
def test_a_reader_that_goes_away_does_not_change_the_run(tmp_path, gatebench, child_environment):
    run = ("run", "plan.toml", "--name", "r", "--in-process", "--no-report")
    line, errors, code = leave_after_one_line(start(tmp_path, child_environment, *run))
    assert line == "12 images in 2 cells to do, 0 there already\n"
    assert (code, errors) == (0, "")
    assert len(list((tmp_path / "runs" / "r" / "cells").glob("*/cell.json"))) == 2
    assert (tmp_path / "runs" / "r" / "board.parquet").is_file()


def test_a_reader_that_goes_away_does_not_change_the_verdict(
    tmp_path, gatebench, child_environment
):
    path = tmp_path / "plan.toml"
    path.write_text(path.read_text().replace("images = 6", "images = 40"))
    assert gatebench("run", "plan.toml", "--name", "r", "--in-process", "--no-report")[0] == 0
    assert gatebench("baseline", "r", "--out", "base.json")[0] == 0

    def cheaper(one):
        less = int(0.1 * one.ceiling)
        return one if one.control else replace(one, adversarial_macs=one.adversarial_macs - less)

    with_cells(Baseline.read(tmp_path / "base.json"), cheaper).write(tmp_path / "base.json")
    check = ("check", "plan.toml", "--run", "r", "--baseline", "base.json")
    line, errors, code = leave_after_one_line(start(tmp_path, child_environment, *check))
    assert line.strip() == "toy random:0"
    assert (code, errors) == (8, "")


def test_nothing_can_be_written_to_a_full_device(tmp_path, child_environment):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bench", "list", "attacks"],
            env=child_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 6
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr


def test_a_user_without_a_home_has_a_folder_here(monkeypatch, tmp_path):
    def nobody(_):
        raise KeyError("uid not found")

    for name in ("GATEBENCH_HOME", "XDG_DATA_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.chdir(tmp_path)
    assert home() == tmp_path / ".gatebench"
    monkeypatch.setenv("GATEBENCH_HOME", "~/x")
    assert home() == tmp_path / "~" / "x"


INTERRUPTED = """
import sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupting())
from bench.cli import main
main(["show", "nothing"])
"""


@pytest.mark.parametrize(
    "module",
    [
        pytest.param("click", id="before-the-command"),
        pytest.param("bench.terminal", id="among-our-own"),
        pytest.param("bench.cli.show", id="in-the-command"),
    ],
)
def test_ctrl_c_while_modules_are_read_is_no_traceback(tmp_path, child_environment, module):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.replace("{module}", module)],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


UNKNOWN = """
import os, pwd, sys
def nobody(*_):
    raise KeyError("uid not found")
pwd.getpwuid = nobody
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "GATEBENCH_HOME", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
from bench.cli import main
main(sys.argv[1:])
"""


def test_a_run_of_an_unknown_user(gatebench, tmp_path, child_environment):
    arguments = ("run", "plan.toml", "--name", "r", "--in-process", "--no-report")
    done = subprocess.run(
        [sys.executable, "-c", UNKNOWN, *arguments],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "recovery" in done.stdout


@pytest.mark.parametrize(
    "number", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get
)
def test_a_disk_that_refuses_says_what_to_do(monkeypatch, tmp_path, number):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(DiskError) as caught:
        write_atomic(tmp_path / "x.json", b"{}")
    assert ("--out" in caught.value.hint) == (number != errno.ENOSPC)
    assert not list(tmp_path.iterdir())


@pytest.fixture
def refusing(monkeypatch, tmp_path):
    """Makes every write below the test's folder end in an error."""

    def refuse(number):
        def guarded(function, writes=lambda *args: True):
            def call(path, *args, **options):
                numbered = isinstance(path, int)  # a pipe to a process
                below = not numbered and os.path.abspath(path).startswith(str(tmp_path))
                if below and writes(*args):
                    raise OSError(number, os.strerror(number), str(path))
                return function(path, *args, **options)

            return call

        def made(suffix=None, prefix=None, dir=None):
            raise OSError(number, os.strerror(number), str(dir))

        opened = guarded(open, lambda mode="r", *args: bool(set(mode) & set("wxa+")))
        monkeypatch.setattr("builtins.open", opened)
        monkeypatch.setattr(os, "mkdir", guarded(os.mkdir))
        monkeypatch.setattr(tempfile, "mkdtemp", made)

    return refuse


ADDING = "copy the run to a folder that can be written to"
WRITES = [
    pytest.param("report r --out pages", "choose another folder with --out", id="report"),
    pytest.param("report r", "choose another folder with --out", id="report-here"),
    pytest.param("publish r --out pages", "choose another folder with --out", id="publish"),
    pytest.param("compare r r --html pages", "choose another folder with --html", id="compare"),
    pytest.param(
        "export r --out hub --dataset me/board", "choose another folder with --out", id="export"
    ),
    pytest.param("baseline r --out b.json", "name another file", id="baseline"),
    pytest.param("show r --json b.json", "name another file", id="show"),
    pytest.param("plan plan.toml --json new/b.json", "name another file", id="plan"),
    pytest.param("plugin new attack mine", "choose another folder with --out", id="plugin"),
    pytest.param("run plan.toml --name s", "choose another folder with --out", id="run"),
    pytest.param("run plan.toml --name r", "choose another folder with --out", id="go-on"),
    pytest.param("transfer r --attack wander", ADDING, id="transfer"),
    pytest.param("latency r --images 1 --repeats 1", ADDING, id="latency"),
    pytest.param("headroom r --images 2", ADDING, id="headroom"),
]


@pytest.mark.parametrize(
    "number", [errno.EROFS, errno.EACCES, errno.ENOSPC], ids=errno.errorcode.get
)
@pytest.mark.parametrize(("command", "elsewhere"), WRITES)
def test_every_command_that_cannot_write_says_what_to_do(
    gatebench, tmp_path, ran, refusing, command, elsewhere, number
):
    shutil.copytree(ran, tmp_path / "runs" / "r")
    refusing(number)
    code, _, err = gatebench(*command.split())
    assert code == 6, err
    assert os.strerror(number) in err
    full = "free some space, then run the same command again"
    assert (full in err, elsewhere in err) == (number == errno.ENOSPC, number != errno.ENOSPC), err


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run."""
    folder = tmp_path_factory.mktemp("surroundings")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SITE))
        patch.chdir(folder)
        registry.providers.cache_clear()
        (folder / "plan.toml").write_text(TOY_PLAN)
        with pytest.raises(SystemExit) as end:
            main(["run", "plan.toml", "--name", "r", "--in-process", "--no-report"])
        assert end.value.code == 0
        yield folder / "runs" / "r"
    registry.providers.cache_clear()


def test_a_folder_that_cannot_be_made_is_named_with_a_way_on(gatebench):
    code, _, err = gatebench("run", "plan.toml", "--in-process", "--out", "/proc/gatebench")
    assert code == 6
    assert "cannot make /proc/gatebench" in err
    assert "--out" in err


PLUGINS = {
    "sleeps": "import time\ntime.sleep(3600)\nfrom bench.api import Attack as Base\n",
    "exits": "import os\nos._exit(5)\nfrom bench.api import Attack as Base\n",
    "raises": "raise SystemExit('no')\nfrom bench.api import Attack as Base\n",
    "garbage": "this is \x00 no Python\n",
}


@pytest.fixture
def idle(tmp_path, monkeypatch, plugins):
    """Plugins that cannot be imported and that no plan names, and one with damaged metadata."""
    site = tmp_path / "site"
    for name, code in PLUGINS.items():
        info = site / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        groups = ("attacks", "targets", "defenses", "datasets", "recipes", "reports", "executors")
        points = "".join(f"[gatebench.{g}]\nidle-{name} = idle_{name}:Idle\n" for g in groups)
        (info / "entry_points.txt").write_text(points)
        (site / f"idle_{name}.py").write_text(f"{code}\nclass Idle(Base):\n    pass\n")
    damaged = site / "damaged-1.0.dist-info"
    damaged.mkdir()
    (damaged / "METADATA").write_bytes(b"\xff\xfe\x00")
    (damaged / "entry_points.txt").write_text("[gatebench.attacks]\nodd = nowhere:At tack\n")
    monkeypatch.syspath_prepend(str(site))
    registry.providers.cache_clear()


def test_plugins_that_no_plan_names_stop_nothing(gatebench, idle, monkeypatch):
    for kind in ("attacks", "targets", "defenses", "datasets", "recipes"):
        code, out, err = gatebench("list", kind)
        assert code == 0, err
        assert "idle-sleeps" in out
    assert gatebench("plan", "plan.toml")[0] == 0
    code, _, err = gatebench("run", "plan.toml", "--name", "r")
    assert code == 0, err
    assert gatebench("show", "r")[0] == 0


def test_the_doctor_survives_them_and_names_them(idle, monkeypatch):
    monkeypatch.setattr(doctor, "IMPORT_LIMIT", 5.0)
    quick = {kind: registry.GROUPS[kind] for kind in ("attack", "defense")}  # others import timm
    monkeypatch.setattr(registry, "GROUPS", quick)
    tried = []
    begin = processes.start
    monkeypatch.setattr(processes, "start", lambda *args: tried.append(args) or begin(*args))
    found = {check.name: check for check in doctor._plugins()}
    assert len(tried) == 3  # a module that sleeps or ends its process is tried once
    assert found["defense idle-sleeps"].detail == found["attack idle-sleeps"].detail
    assert found["attack idle-sleeps"].detail == "does not finish importing within 5 s"
    assert found["attack idle-exits"].detail == "ends the process that imports it"
    assert "SystemExit" in found["attack idle-raises"].detail
    assert "SyntaxError" in found["attack idle-garbage"].detail
    assert found["attack still"].state == "ok"
    assert found["attack identity"].state == "ok"


@pytest.mark.skipif(os.name == "nt", reason="there, every name of a file is text")
def test_names_of_files_need_not_be_text(gatebench, tmp_path):
    """On POSIX they are bytes; the plan, the folder of all runs and a union are called so."""
    odd = os.fsdecode(b"\xff")
    os.rename("plan.toml", f"{odd}.toml")
    run = (f"{odd}.toml", "--out", odd, "--in-process", "--no-report")
    assert gatebench("run", *run, "--name", "r")[0] == 0
    code, _, err = gatebench("merge", f"{odd}/r", "--out", f"{odd}/{odd}", "--no-report")
    assert code == 0, err
    assert gatebench("verify", f"{odd}/{odd}")[0] == 0
