"""Clean processes, and what happens when one is killed while it starts."""

import multiprocessing.process
import os
import subprocess
import sys

import pytest

from bench.errors import GatebenchError
from bench.executors import local, processes
from bench.executors.local import Local


def echo(connection, word):
    connection.send(word)


@pytest.fixture
def broken_starts(monkeypatch):
    """Let the next n starts of a process fail as they do when the server is killed meanwhile."""
    real, left = multiprocessing.process.BaseProcess.start, [0]

    def start(self):
        if left[0]:
            left[0] -= 1
            raise EOFError("unexpected EOF")
        real(self)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    return left


def test_start_asks_a_new_server_when_the_first_is_killed(broken_starts):
    broken_starts[0] = 2
    process, connection = processes.start(echo, "here")
    assert connection.poll(60)
    assert connection.recv() == "here"
    process.join()
    connection.close()


KILLED_AS_IT_ASKED = """
import os, socket
from multiprocessing import forkserver
from bench.executors import processes

def nothing(connection):
    connection.send("here")

if __name__ == "__main__":
    process, connection = processes.start(nothing)
    assert connection.poll(120) and connection.recv() == "here"
    process.join()
    server = forkserver._forkserver
    asking = socket.socket(socket.AF_UNIX)
    asking.connect(server._forkserver_address)
    asking.close()  # as the system does for a program that is killed before it says what it wants
    pid, _ = os.waitpid(server._forkserver_pid, 0)
    print("the server ended")
"""


@pytest.mark.skipif(
    "forkserver" not in multiprocessing.get_all_start_methods(), reason="there is no server"
)
def test_a_program_killed_as_it_asks_for_a_process_prints_nothing(tmp_path, child_environment):
    (tmp_path / "program.py").write_text(KILLED_AS_IT_ASKED)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "the server ended\n", "")


def where(connection):
    connection.send((os.getcwd(), sys.path))


def test_a_process_looks_for_modules_where_this_one_does_now(monkeypatch, tmp_path):
    """In a notebook the first place is "", the working folder, which may have changed since."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    process, connection = processes.start(where)
    assert connection.poll(60)
    assert connection.recv() == (str(tmp_path), [str(tmp_path), *sys.path[1:]])
    process.join()
    connection.close()


def test_a_working_folder_that_was_removed_holds_no_module(monkeypatch):
    def gone():
        raise FileNotFoundError

    monkeypatch.setattr(sys, "path", ["", "/a"])
    monkeypatch.setattr(os, "getcwd", gone)
    assert processes.search_path() == ["/a"]


def test_start_waits_for_a_killed_server_to_be_gone(monkeypatch):
    """It still counts as alive, is not started anew, and refuses whoever asks."""
    real, slept = multiprocessing.process.BaseProcess.start, []

    def start(self):
        if sum(slept) < 2:
            raise ConnectionRefusedError
        real(self)

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    monkeypatch.setattr(processes.time, "sleep", slept.append)
    process, connection = processes.start(echo, "here")
    assert connection.poll(60)
    assert connection.recv() == "here"
    assert 2 <= sum(slept) < 10
    process.join()
    connection.close()


def test_start_gives_up_with_a_sentence(broken_starts, monkeypatch):
    broken_starts[0] = len(processes.PAUSES) + 1
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: None)
    with pytest.raises(GatebenchError, match="ended again and again"):
        processes.start(echo, "here")


@pytest.mark.parametrize("lost", [1, processes.STARTS - 1], ids=["one", "all-but-one"])
def test_workers_killed_before_they_start_are_replaced(lost, monkeypatch, tmp_path):
    killed = killing_the_first(lost, monkeypatch)
    with local_executor(tmp_path) as executor:
        assert executor.open()["device"].startswith("cpu")
    assert len(killed) == lost


def test_workers_that_never_start_end_the_run(monkeypatch, tmp_path):
    killing_the_first(processes.STARTS, monkeypatch)
    with (
        local_executor(tmp_path) as executor,
        pytest.raises(GatebenchError, match="before it could start"),
    ):
        executor.open()


def local_executor(tmp_path):
    return Local(device="cpu", workers=1, threads=1, deadline=60, log=str(tmp_path / "log.txt"))


def killing_the_first(count, monkeypatch):
    real, killed = processes.start, []

    def start(*arguments):
        process, connection = real(*arguments)
        if len(killed) < count:
            process.kill()
            process.join()
            killed.append(process.pid)
        return process, connection

    monkeypatch.setattr(local, "start", start)
    return killed
