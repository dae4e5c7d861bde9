"""Whatever a plugin raises or prints is told in words of bounded length."""

from types import SimpleNamespace

import pytest

from bench.errors import ContractBroken, GatebenchError
from bench.evaluation.prepare import Unsupported
from bench.executors import worker


class Mute(RuntimeError):
    def __str__(self):
        raise ValueError("no words")


class Leaving(RuntimeError):
    def __str__(self):
        raise SystemExit(3)


class Wordless(GatebenchError):
    def __init__(self):
        super().__init__(Mute())


RAISED = {
    "mute": (Mute(), "failed", "raised Mute, whose message cannot be printed"),
    "leaving": (Leaving(), "failed", "raised Leaving, whose message cannot be printed"),
    "nothing-for-a-message": (ContractBroken(None), "invalid", "None"),
    "number-for-a-message": (GatebenchError(5, hint=7), "failed", "5; 7"),
    "mute-for-a-message": (Wordless(), "failed", "Wordless, whose message cannot be printed"),
    "mute-contract": (ContractBroken(Mute(), hint="x"), "invalid", "cannot be printed"),
    "number-for-a-reason": (Unsupported(5), "failed", "raised Unsupported: 5"),
    "memory": (RuntimeError("can't allocate memory: 9 bytes"), "oom", "out of memory at batch 2"),
    "long": (ValueError("x" * 3_000_000), "failed", "[2,980,"),
}


@pytest.mark.parametrize("name", RAISED)
def test_whatever_is_raised_is_told_in_words(name, monkeypatch):
    error, status, said = RAISED[name]

    def compute(*ignored):
        raise error

    monkeypatch.setattr(worker, "_compute", compute)
    part = SimpleNamespace(value="nowhere.at.all:Attack", label="a")
    protocol = SimpleNamespace(batch=2)
    cell = SimpleNamespace(attack=part, defense=None, target=part, protocol=protocol)
    event = worker.perform(SimpleNamespace(cell=cell, label="t / a"), "cpu", lambda event: None)
    assert (event.what, event.status) == ("problem", status)
    assert said in event.reason
    assert isinstance(event.detail, str)
    assert max(len(event.reason), len(event.detail)) < worker.MOST + 100


def test_a_log_that_grows_without_end_is_cut_off_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "LARGEST_LOG", 1000)
    monkeypatch.setattr(worker, "KEPT_OF_LOG", 6)
    log = tmp_path / "log.txt"
    with open(log, "a") as file:
        file.write("begin" + "\n" * 995)
        file.flush()
        worker.shorten(str(log))
        assert log.stat().st_size == 1000
        file.write("loud" * 100)
        file.flush()
        worker.shorten(str(log))
        file.write("end")
    assert log.read_text() == "begin\nend"
    worker.shorten(str(tmp_path / "absent.txt"))
