"""Runs with real workers, killed at random: the parent, the whole group, or one worker.

`GATEBENCH_KILLS=200` makes that many, at new instants each time; by default one of each kind.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

WANTED = int(os.environ.get("GATEBENCH_KILLS", "0"))
KINDS = ("parent", "group", "worker")
ARGS = ["run", "plan.toml", "--name", "r", "--no-report"]
PLAN = """
schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 18
batch = 4
threat = { norm = "psnr", floor = 30 }
budget = 9
[run]
device = "cpu"
shard = 4
workers = 2
[[target]]
use = "toy"
weights = "random:0"
[[attack]]
use = "wander"
[[attack]]
use = "still"
[[attack]]
use = "black-box"
"""

pytestmark = [
    pytest.mark.slow,  # runs of real workers, killed again and again
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at /proc"),
]


def start(folder, environment):
    return subprocess.Popen(
        [sys.executable, "-m", "bench", *ARGS],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def family(session):
    """The living processes of a session, in the order in which they were started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state != "Z":
                found.append(int(path.parent.name))
    return sorted(found)


def wait_until_gone(session, seconds=60.0):
    until = time.monotonic() + seconds
    while family(session) and time.monotonic() < until:
        time.sleep(0.05)
    assert not family(session), "a worker outlived its parent"


def kill(process, kind, draw):
    """Kill part of a run; whether there was something to kill."""
    with contextlib.suppress(ProcessLookupError):
        if kind == "group":
            os.killpg(process.pid, signal.SIGKILL)
        elif kind == "parent":
            process.kill()
        else:
            others = [pid for pid in family(process.pid) if pid != process.pid]
            if not others:
                return False
            os.kill(draw.choice(others), signal.SIGKILL)
        return True
    return False


def files(folder):
    root = folder / "runs" / "r" / "cells"
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def reference(tmp_path_factory, child_environment):
    """The files of a run that nothing interrupted, and how long it took."""
    folder = tmp_path_factory.mktemp("reference")
    (folder / "plan.toml").write_text(PLAN)
    began = time.monotonic()
    process = start(folder, child_environment)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return files(folder), time.monotonic() - began


def test_killed_at_random_a_run_ends_or_is_resumed(reference, tmp_path, child_environment):
    """Whoever is killed, and when: the same command gives the bytes of an undisturbed run."""
    whole, seconds = reference
    draw = random.Random(None if WANTED else 7)
    killed, ended = Counter(), Counter()
    wanted = WANTED or len(KINDS)
    for trial in range(3 * wanted):
        if sum(killed.values()) >= wanted:
            break
        kind = KINDS[trial % len(KINDS)]
        folder = tmp_path / str(trial)
        folder.mkdir()
        (folder / "plan.toml").write_text(PLAN)
        began, process = time.monotonic(), start(folder, child_environment)
        time.sleep(draw.uniform(0.3, 1.0) * seconds)
        killed[kind] += process.poll() is None and kill(process, kind, draw)
        said, _ = process.communicate(timeout=300)
        if process.returncode == 0:
            seconds = min(seconds, time.monotonic() - began)
        wait_until_gone(process.pid)
        assert "Traceback" not in said, said
        assert process.returncode in (0, 4, -signal.SIGKILL), said
        ended[process.returncode] += 1
        if process.returncode != 0:
            again = start(folder, child_environment)
            said, _ = again.communicate(timeout=300)
            assert again.returncode == 0, said
        found = files(folder)
        assert {name: data for name, data in found.items() if name in whole} == whole
        assert set(found) == set(whole), "nothing half-written is left"
        print(f"\nkilled {dict(killed)}, ended with {dict(ended)}", flush=True)
    if not WANTED:
        assert sum(killed.values()) > 0
