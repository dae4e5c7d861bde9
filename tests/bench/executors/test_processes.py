"""Clean processes: what the server imports, what a process is given, and when it ends."""

import json
import os
import subprocess
import sys
import time

from bench.executors.processes import start

PRELOAD = """
import json, sys
import torch
calls = []
def watch(module, name):
    real = getattr(module, name)
    def called(*args, **options):
        calls.append(name)
        return real(*args, **options)
    setattr(module, name, called)
watch(torch._C, "_cuda_getDeviceCount")
for name in ("is_available", "device_count", "_lazy_init"):
    watch(torch.cuda, name)
import bench.executors.preload
plugins = [name for name in sys.modules if name.partition(".")[0] in ("attacks", "targets")]
print(json.dumps([calls, plugins]))
"""


def test_the_server_asks_for_no_gpu_and_imports_no_plugin(child_environment):
    """Asking how many GPUs there are would keep every forked process from using one."""
    done = subprocess.run(
        [sys.executable, "-c", PRELOAD],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[], []]


def tell(connection, *arguments):
    connection.send((os.environ.get("TOLD"), os.getcwd(), sys.path[0], arguments))


def wait_for_ever(connection):
    connection.send(os.getpid())
    time.sleep(3600)


def answer(target, *arguments):
    process, connection = start(target, *arguments)
    try:
        assert connection.poll(200)
        return connection.recv()
    finally:
        process.kill()
        process.join()
        connection.close()


def test_a_process_has_the_surroundings_of_the_moment(monkeypatch, tmp_path):
    for name in ("one", "two"):  # the server was started before the second
        (tmp_path / name).mkdir()
        with monkeypatch.context() as patch:
            patch.setenv("TOLD", name)
            patch.chdir(tmp_path / name)
            patch.syspath_prepend(str(tmp_path / name))
            told, folder, first, arguments = answer(tell, 1, name)
        assert (told, folder, first) == (name, str(tmp_path / name), str(tmp_path / name))
        assert arguments == (1, name)
    assert answer(tell)[0] is None


PARENT = """
import os, sys
from bench.executors.processes import start
sys.path.insert(0, sys.argv[1])
from test_processes import wait_for_ever
if __name__ == "__main__":
    process, connection = start(wait_for_ever)
    print(connection.recv(), flush=True)
    os._exit(9)
"""


def test_it_ends_when_its_parent_is_gone(tmp_path, child_environment):
    (tmp_path / "parent.py").write_text(PARENT)
    done = subprocess.run(
        [sys.executable, "parent.py", os.path.dirname(__file__)],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 9, done.stderr
    child, until = int(done.stdout), time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError(f"process {child} is still there")
