"""A child of the crash tests: imports everything once, then forks a run for every command it reads
and kills it where told.

Each line on stdin is a JSON object: {"args": [...], "cwd": folder, "kill": null | {"point": name,
"nth": n} | {"after": seconds}}. Each answer is a line with the exit code (negative: the signal).
Forking saves importing torch for each of many dozen runs, and so does the one server that all of
them start their processes from.
"""

import importlib
import json
import os
import random
import signal
import sys
import threading
import time
from multiprocessing import forkserver

import bench.evaluation.shard
import bench.executors.local
import bench.files.atomic
import bench.results.board
import bench.runs.run
import bench.store.documents
import bench.store.folder
import bench.testing
from bench.cli import main
from bench.executors.processes import start
from bench.plugins.registry import find
from bench.store.folder import CellFolder

USED = (
    "bench.cli.run",
    "bench.evaluation.prepare",
    "bench.plans.resolve",
    "bench.runs.execute",
    "bench.store.provenance",
    "mischief.world",
    "mischief.targets",
    "reports.sheets",
    "reports.tables",
    "rich.console",
)
"""What every run imports, imported once; never in the processes that a run starts, which import
this file too, since what importing a plugin reads is seen there."""

PARSED = (("target", "toy"), ("attack", "wander"), ("attack", "still"), ("attack", "black-box"))
"""Plugins whose sources every run reads, read once."""

POINTS = (
    "before shard",
    "mid-write",
    "before rename",
    "after rename",
    "before seal",
    "before target",
    "before plan",
)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point, nth):
    """SIGKILL this process the `nth` time (from 0) it comes to `point`."""
    assert point in POINTS, point
    left = [nth]

    def here():
        left[0] -= 1
        if left[0] < 0:
            die()

    replace, write, write_shard = (
        os.replace,
        bench.files.atomic.write_atomic,
        CellFolder.write_shard,
    )

    def about(path):
        name = os.path.basename(path)
        return {
            "cell.json": "before seal",
            "target.json": "before target",
            "plan.json": "before plan",
        }.get(name, "")

    def write_atomic(path, data, **options):
        if point == about(path):
            here()
        if point == "mid-write" and path.suffix == ".parquet":
            left[0] -= 1
            if left[0] < 0:
                with open(path.with_name(f".{path.name}.0000.part"), "xb") as file:
                    file.write(data[: len(data) // 2])
                    file.flush()
                die()
        write(path, data, **options)

    def rename(source, target, **options):
        shard = str(target).endswith(".parquet")
        if shard and point == "before rename":
            here()
        replace(source, target, **options)
        if shard and point == "after rename":
            here()

    def shard(self, *args):
        if point == "before shard":
            here()
        return write_shard(self, *args)

    os.replace = rename
    bench.store.folder.write_atomic = bench.store.documents.write_atomic = write_atomic
    CellFolder.write_shard = shard


def nothing(connection):
    """A process that only had to be started."""
    connection.close()


def share_server():
    """Let children start their processes from the server of this process.

    multiprocessing would start one for each of them, since a server is nobody's child there.
    """
    process, connection = start(nothing)
    process.join()
    connection.close()
    forkserver._forkserver.ensure_running = lambda: None


def child(command):
    os.chdir(command["cwd"])
    quiet = os.open("output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    kill = command["kill"] or {}
    if "point" in kill:
        arm(kill["point"], kill["nth"])
    if "after" in kill:
        threading.Thread(target=lambda: (time.sleep(kill["after"]), die()), daemon=True).start()
    try:
        main(command["args"])
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    os._exit(0)


if __name__ == "__main__":
    for name in USED:
        importlib.import_module(name)
    for kind, name in PARSED:
        find(kind, name).facts()
    share_server()
    random.seed(0)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(json.loads(line))
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
