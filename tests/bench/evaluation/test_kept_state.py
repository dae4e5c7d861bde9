"""What plugins keep between calls is seen, and must change no row."""

import itertools
import json
import random
import sys
from collections import Counter, deque

import numpy as np
import pytest
import torch
from mischief_site import SITE

import bench
from bench.cli import main
from bench.evaluation.kept_state import _digests, changed
from bench.evaluation.withheld import Weights
from bench.plugins import registry
from bench.testing import ToyTarget, sample_images

PLAN = """schema = 1
[protocol]
dataset = "toy-pixels:test"
images = 6
batch = 3
threat = { norm = "linf", eps = "8/255" }
budget = 5
[run]
device = "cpu"
[[target]]
use = "toy"
weights = "random:0"
"""
ATTACK = '[[attack]]\nuse = "forgetful"\nlabel = "%s"\nparams = { keeps = "%s" }\n'


class Held:
    def __init__(self):
        self.count = 0


def bump(held):
    held.count += 1


CHANGES = {
    "number": ({"x": 1}, lambda at: at.update(x=2)),
    "list": ({"x": [1, [2]]}, lambda at: at["x"][1].append(3)),
    "dictionary": ({"x": {"a": 1}}, lambda at: at["x"].update(a=2)),
    "set": ({"x": {1}}, lambda at: at["x"].add(2)),
    "counter": ({"x": Counter("ab")}, lambda at: at["x"].update("b")),
    "queue": ({"x": deque([1])}, lambda at: at["x"].append(2)),
    "tensor": ({"x": torch.zeros(3)}, lambda at: at["x"].add_(1)),
    "array": ({"x": np.zeros(3)}, lambda at: at["x"].__iadd__(1)),
    "iterator": ({"x": itertools.count()}, lambda at: next(at["x"])),
    "random": ({"x": random.Random(1)}, lambda at: at["x"].random()),
    "torch-generator": (
        {"x": torch.Generator().manual_seed(1)},
        lambda at: torch.rand(1, generator=at["x"]),
    ),
    "numpy-generator": ({"x": np.random.default_rng(1)}, lambda at: at["x"].random()),
    "object": ({"x": Held()}, lambda at: bump(at["x"])),
    "name": ({"x": 1}, lambda at: at.update(y=1)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_a_change_is_seen_and_looking_changes_nothing(kind):
    kept, change = CHANGES[kind]
    first = _digests("m", kept)
    assert not changed(first, _digests("m", kept))
    change(kept)
    assert changed(first, _digests("m", kept)) == ["m.y" if kind == "name" else "m.x"]


def test_what_cannot_be_read_stops_nothing():
    loop = []
    loop.append(loop)
    kept = {"loop": loop, "file": sys.stdout, "call": len, "type": int, "odd": (x for x in "ab")}
    assert set(_digests("m", kept)) == {"m.loop", "m.file", "m.call", "m.odd"}
    assert next(kept["odd"]) == "a"


def test_an_attack_that_comes_out_otherwise_next_time_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(SITE))
    registry.providers.cache_clear()
    kinds = ("count", "list", "first", "drawn", "cache", "size", "nothing")
    (tmp_path / "plan.toml").write_text(PLAN + "".join(ATTACK % (kind, kind) for kind in kinds))
    with pytest.raises(SystemExit) as end:
        main(["run", "plan.toml", "--no-report", "--name", "run", "--in-process"])
    registry.providers.cache_clear()
    assert end.value.code == 4
    found = {}
    for path in (tmp_path / "runs" / "run" / "cells").glob("*/cell.json"):
        document = json.loads(path.read_bytes())
        found[document["inputs"]["attack"]["label"]] = document["status"], document["reason"]
    for kind, where in (("count", "memory.calls"), ("list", "Forgetful.before")):
        status, reason = found[kind]
        assert status == "invalid"
        assert "come out otherwise after others were attacked" in reason
        assert where in reason
    for kind, where in (("first", "memory.seen"), ("drawn", "memory.drawn")):
        status, reason = found[kind]
        assert status == "invalid", "it depends on which images a worker begins with"
        assert "later images come out otherwise before any others were attacked" in reason
        assert where in reason
    assert found["cache"] == found["size"] == found["nothing"] == ("ok", "")


def test_the_toy_that_comes_along_can_be_attacked():
    """A target of gatebench that is handed in is no plugin whose modules are looked at."""
    found = bench.evaluate(ToyTarget(), "identity", sample_images((3, 8, 8)), batch=6, device="cpu")
    assert found.recovery.value == 0


def test_looking_at_a_weight_that_was_put_away_is_no_use_of_it():
    def refuse():
        raise AssertionError("it was used")

    network = ToyTarget()
    weights = Weights((network,), refuse)
    weights.move(away=True)
    try:
        assert _digests("module", {"kept": network.head.weight})
    finally:
        weights.move(away=False)
