"""Killed at any instant and started again, a run gives the bytes of one that was never interrupted."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.results.board import load_boards
from bench.store.folder import CellFolder

PLAN = """
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = {images}
batch = 4
threat = {{ norm = "psnr", floor = 30 }}
budget = {budget}
audit = 1
[run]
device = "cpu"
shard = {shard}
workers = {workers}
[[target]]
use = "toy"
weights = "random:0"
"""
ATTACKS = ("wander", "still", "black-box")


def plan(folder, *, shard=4, workers=1, attacks=ATTACKS, images=10, budget=9, name="plan.toml"):
    text = PLAN.format(shard=shard, workers=workers, images=images, budget=budget)
    (Path(folder) / name).write_text(
        text + "".join(f'[[attack]]\nuse = "{attack}"\n' for attack in attacks)
    )


def files(folder, *, but=()):
    """Every byte of what a run leaves under cells/."""
    root = Path(folder) / "runs" / "r" / "cells"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in but
    }


def rows(folder):
    """The rows of every cell, whatever its shards."""
    root = Path(folder) / "runs" / "r" / "cells"
    return {path.name: CellFolder(path).table().to_pylist() for path in sorted(root.iterdir())}


ARGS = ["run", "plan.toml", "--name", "r", "--no-report"]


class Forks:
    """Runs in forked children of one process that has imported everything (see killed.py)."""

    def __init__(self, environment):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("killed.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )

    def __call__(self, folder, *extra, kill=None):
        return self.command(folder, *ARGS, "--in-process", *extra, kill=kill)

    def command(self, folder, *args, kill=None):
        command = {"args": args, "cwd": str(folder), "kill": kill}
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def forks(child_environment):
    made = Forks(child_environment)
    yield made
    made.close()


@pytest.fixture(scope="module")
def reference(forks, tmp_path_factory):
    """The files of a run that nothing interrupted, and its folder."""
    folder = tmp_path_factory.mktemp("reference")
    plan(folder)
    assert forks(folder) == 0, (folder / "output.txt").read_text()
    found = files(folder)
    assert sum(name.endswith(".parquet") for name in found) == 9
    assert sum(name.endswith("cell.json") for name in found) == 3
    return found, folder


def test_the_same_run_twice_gives_the_same_bytes(reference, forks, tmp_path):
    plan(tmp_path)
    assert forks(tmp_path) == 0
    assert files(tmp_path) == reference[0]


LATER = pytest.mark.slow  # the same instants, later in the run
BESIDE = pytest.mark.slow  # next to an instant that is tried always


@pytest.mark.parametrize("nth", [0, pytest.param(6, marks=LATER)])
@pytest.mark.parametrize(
    "point",
    [
        pytest.param("before shard", marks=BESIDE),
        "mid-write",
        pytest.param("before rename", marks=BESIDE),
        pytest.param("after rename", marks=BESIDE),
    ],
)
def test_killed_at_a_shard(reference, forks, tmp_path, point, nth):
    plan(tmp_path)
    assert forks(tmp_path, kill={"point": point, "nth": nth}) == -signal.SIGKILL
    kept = {
        name: data
        for name, data in files(tmp_path).items()
        if name.endswith(".parquet") and "/." not in name
    }
    assert len(kept) == nth + (point == "after rename"), (
        "what was finished is kept, and nothing half-finished counts"
    )
    assert kept.items() <= reference[0].items()
    assert forks(tmp_path) == 0
    left_over = [name for name in files(tmp_path) if name.endswith(".part")]
    assert {
        name: data for name, data in files(tmp_path).items() if name not in left_over
    } == reference[0]
    assert not left_over, "half a file of a killed run is swept away"


@pytest.mark.parametrize(
    ("point", "nth"),
    [
        ("before seal", 0),
        pytest.param("before seal", 2, marks=LATER),
        pytest.param("before target", 1, marks=BESIDE),
        ("before plan", 0),
    ],
)
def test_killed_between_shards(reference, forks, tmp_path, point, nth):
    plan(tmp_path)
    assert forks(tmp_path, kill={"point": point, "nth": nth}) == -signal.SIGKILL
    assert forks(tmp_path) == 0
    assert files(tmp_path) == reference[0]


@pytest.mark.slow  # a dozen runs; certain instants are quick
def test_killed_at_many_random_instants(reference, forks, tmp_path):
    """Runs are killed and started again until they end; a run that ends is compared, and the next
    one starts from nothing."""
    draw, killed, ended, longest = random.Random(1), 0, 0, 0.3
    while killed < 8 or ended < 1:
        folder = tmp_path / str(ended)
        if not folder.exists():
            folder.mkdir()
            plan(folder)
        started = time.monotonic()
        if forks(folder, kill={"after": draw.uniform(0.02, longest)}) == -signal.SIGKILL:
            killed += 1
            longest *= 1.2  # so that later instants are met too, however slow the machine
            continue
        assert files(folder) == reference[0]
        ended += 1
        longest = max((time.monotonic() - started) / 2, 0.05)
        assert ended < 60, "runs end before they can be killed"


def test_a_shard_that_was_changed_after_sealing_reaches_no_board(reference, forks, tmp_path):
    plan(tmp_path)
    assert forks(tmp_path) == 0
    (run,) = (tmp_path / "runs").iterdir()
    shard = sorted(run.glob("cells/*/shard-*.parquet"))[0]
    shard.write_bytes(shard.read_bytes() + b" ")
    statuses = {cell.key: (cell.status, cell.reason) for cell in load_boards(run)[0].cells}
    status, reason = statuses.pop(shard.parent.name)
    assert status == "invalid"
    assert shard.name in reason
    assert {found for found, _ in statuses.values()} == {"ok"}


def test_a_damaged_plan_is_refused_and_fresh_replaces_it(reference, forks, tmp_path):
    plan(tmp_path)
    assert forks(tmp_path) == 0
    (run,) = (tmp_path / "runs").iterdir()
    (run / "plan.json").write_text("garbage", encoding="utf-8")
    assert forks(tmp_path) == 5
    assert "--fresh" in (tmp_path / "output.txt").read_text(encoding="utf-8")
    assert forks(tmp_path, "--fresh") == 0
    assert files(tmp_path) == reference[0]


@pytest.mark.parametrize("shard", [8, pytest.param(1000, marks=BESIDE)])
def test_other_shard_sizes_give_the_same_rows(reference, forks, tmp_path, shard):
    plan(tmp_path, shard=shard)
    assert forks(tmp_path) == 0
    assert rows(tmp_path) == rows(reference[1])


def test_another_order_of_cells_gives_the_same_files(reference, forks, tmp_path):
    plan(tmp_path, attacks=ATTACKS[::-1])
    assert forks(tmp_path) == 0
    assert files(tmp_path) == reference[0]


def test_another_shard_size_after_a_kill_goes_on_with_what_is_there(reference, forks, tmp_path):
    plan(tmp_path)
    assert forks(tmp_path, kill={"point": "before shard", "nth": 2}) == -signal.SIGKILL
    plan(tmp_path, shard=8)
    assert forks(tmp_path) == 0
    assert rows(tmp_path) == rows(reference[1])
    names = {re.sub(r".*/", "", name) for name in files(tmp_path) if name.endswith(".parquet")}
    assert "shard-00000-00003.parquet" in names
    assert "shard-00008-00009.parquet" in names


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("cut", marks=BESIDE),
        "flip",
        "gone",
        pytest.param("empty", marks=BESIDE),
    ],
)
def test_a_damaged_shard_of_a_finished_run_is_computed_again(reference, forks, tmp_path, damage):
    plan(tmp_path, attacks=("wander",))
    assert forks(tmp_path) == 0
    whole = files(tmp_path)
    path = sorted((tmp_path / "runs/r/cells").glob("*/shard-00004*.parquet"))[0]
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": bytes(data[:-100]), "flip": bytes(data), "empty": b""}[damage])
    assert forks(tmp_path) == 0
    assert files(tmp_path) == whole
    assert "4 images in 1 cell to do, 6 there already" in (tmp_path / "output.txt").read_text()


def test_a_run_that_is_finished_computes_nothing(reference, forks, tmp_path):
    plan(tmp_path, attacks=("still",))
    assert forks(tmp_path) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs/r/cells").rglob("*")}
    assert forks(tmp_path) == 0
    assert "0 images in 0 cells to do, 10 there already" in (tmp_path / "output.txt").read_text()
    assert {
        path: path.stat().st_mtime_ns for path in (tmp_path / "runs/r/cells").rglob("*")
    } == stamps


# ---------------------------------------------------------------- in shares


MANY = pytest.mark.slow  # ten runs one after the other
ALONE = pytest.mark.slow  # a share that is the whole run


@pytest.mark.parametrize("shares", [pytest.param(1, marks=ALONE), 2, pytest.param(3, marks=MANY)])
def test_shares_in_any_order_with_kills_are_the_bytes_of_one_run(
    reference, forks, tmp_path, shares
):
    plan(tmp_path)
    draw = random.Random(shares)
    order = list(range(1, shares + 1))
    draw.shuffle(order)
    for number in order:
        share = ("--share", f"{number}/{shares}")
        point = draw.choice(["before shard", "mid-write", "after rename"])
        nth = draw.randrange(3)
        assert forks(tmp_path, *share, kill={"point": point, "nth": nth}) == -signal.SIGKILL
        assert forks(tmp_path, *share) == 0, (tmp_path / "output.txt").read_text()
    names = [f"r-{number}of{shares}" for number in order]
    merge = ("merge", *names, "--out", "runs/r", "--no-report")
    killed = forks.command(tmp_path, *merge, kill={"point": "before rename", "nth": 7})
    assert killed == -signal.SIGKILL
    assert forks.command(tmp_path, *merge) == 0, (tmp_path / "output.txt").read_text()
    assert files(tmp_path) == reference[0]
    for name in ("plan.json", "board.parquet", "board.csv"):
        mine, other = (folder / "runs" / "r" / name for folder in (tmp_path, reference[1]))
        assert mine.read_bytes() == other.read_bytes(), name


# ---------------------------------------------------------------- with real workers


def start(folder, environment, *extra):
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *ARGS, *extra],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def family(session):
    """The processes of a session that are still alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(path.parent.name))
    return found


def gone(session, seconds=20.0):
    until = time.monotonic() + seconds
    while family(session) and time.monotonic() < until:
        time.sleep(0.1)
    return not family(session)


def wait_for(process, text):
    """Read its output until `text` comes."""
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    raise AssertionError("".join(seen) + process.stderr.read())


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc")


@linux
@pytest.mark.slow  # a run of real workers, started three times
def test_real_workers_killed_with_their_parent_and_started_again(
    reference, tmp_path, child_environment
):
    """Whatever the number of workers, kills included: the files of the undisturbed run. And no
    worker survives its parent."""
    plan(tmp_path, workers=2)
    for instant in ("images]", "to do"):
        process = start(tmp_path, child_environment)
        wait_for(process, instant)
        while len(family(process.pid)) < 2 and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        process.communicate()
        assert gone(process.pid), family(process.pid)
    process = start(tmp_path, child_environment)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert files(tmp_path) == reference[0]
    assert gone(process.pid)


@linux
@pytest.mark.slow  # a long run of real workers, ended half way
def test_ctrl_c_ends_cleanly_and_the_lock_holds_meanwhile(tmp_path, child_environment):
    plan(
        tmp_path, workers=2, images=40, budget=3000
    )  # far from over when the second process arrives
    process = start(tmp_path, child_environment)
    wait_for(process, "to do")
    second = subprocess.run(
        [sys.executable, "-m", "bench", *ARGS],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert second.returncode == 5
    assert f"is in use by another gatebench (process {process.pid})" in second.stderr
    os.killpg(
        process.pid, signal.SIGINT
    )  # as a terminal does: to parent and workers, these perhaps still importing
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from there" in errors
    assert "Traceback" not in errors
    assert gone(process.pid)
    process = start(tmp_path, child_environment)
    wait_for(process, "images]")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert gone(process.pid)


# ---------------------------------------------------------------- other folders, other worlds


def test_another_plan_under_the_same_name_is_refused(forks, tmp_path):
    plan(tmp_path, attacks=("still",))
    assert forks(tmp_path) == 0
    before = files(tmp_path)
    plan(tmp_path, attacks=("still",), budget=10)
    assert forks(tmp_path) == 5
    said = (tmp_path / "output.txt").read_text()
    assert "holds another plan" in said
    assert "protocol.budget was 9, is 10" in said
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "field", ["versions", *(pytest.param(name, marks=BESIDE) for name in ("threads", "sources"))]
)
def test_results_of_another_environment_are_not_mixed_in_silence(forks, tmp_path, field):
    plan(tmp_path, attacks=("wander",))
    forks(tmp_path, kill={"point": "before shard", "nth": 2})
    folder = next((tmp_path / "runs/r/cells").iterdir())
    cell = CellFolder(folder)
    first = cell.shards()[0]
    other = {
        "threads": 7,
        "versions": {**first.record["versions"], "torch": "1.0"},
        "sources": {**first.record["sources"], "attack": "0"},
    }
    table = cell.table()
    record = {
        name: value for name, value in first.record.items() if name not in ("key", "schema")
    } | {field: other[field]}
    cell.write_shard(first.first, first.last, table.slice(0, 4).to_pylist(), record)
    assert forks(tmp_path) == 5
    said = (tmp_path / "output.txt").read_text()
    assert "holds results of 'toy random:0 / wander' made otherwise" in said
    assert {
        "threads": "threads was 7, is 1",
        "versions": "versions.torch was '1.0'",
        "sources": "sources.attack was '0'",
    }[field] in said
    assert "--fresh" in said
    assert "--keep" in said
    assert forks(tmp_path, "--keep") == 0
    sealed = cell.sealed()
    assert sealed.flags[-1] == "mixed-environment"
    assert forks(tmp_path) == 5, "still told once it is finished"
    assert forks(tmp_path, "--fresh") == 0
    sealed = cell.sealed()
    assert "mixed-environment" not in sealed.flags
    assert sealed.environment["threads"] == 1
    assert forks(tmp_path, "--keep", "--fresh") == 2


# ---------------------------------------------------------------- a full disk


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 1 MB, where this user may mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1000k", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(options, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_ends_the_run_with_code_6_and_loses_nothing(reference, forks, tiny_disk):
    plan(tiny_disk)
    ballast = tiny_disk / "ballast"
    ballast.write_bytes(b"0" * 900_000)
    assert forks(tiny_disk, kill=None) == 6
    kept = {name: data for name, data in files(tiny_disk).items() if name.endswith(".parquet")}
    assert 0 < len(kept) < 9
    assert kept.items() <= reference[0].items(), "what was sealed before is intact"
    assert not [name for name in files(tiny_disk) if name.endswith(".part")]
    ballast.unlink()
    assert forks(tiny_disk) == 0
    assert files(tiny_disk) == reference[0]


def test_a_write_that_fails_half_way_leaves_the_old_file(monkeypatch, tmp_path):
    from bench.errors import DiskError
    from bench.files.atomic import write_atomic

    path = tmp_path / "cell.json"
    write_atomic(path, b"old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left on device") as caught:
        write_atomic(path, b"new")
    assert caught.value.exit_code == 6
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["cell.json"]
