"""Steps whose work grows with the work there is, and not with its square: operations are counted."""

import sys
from pathlib import Path

import numpy as np
import pytest

from bench.results import paired
from bench.store.folder import CellFolder
from bench.store.shards import Shard


def lines(call):
    """How many lines of Python a call runs."""
    count = [0]

    def trace(frame, event, argument):
        count[0] += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count[0]


@pytest.mark.parametrize("there", ["none", "half", "all"])
def test_what_a_cell_misses_is_found_in_one_pass(monkeypatch, there):
    def missing(count):
        step = {"none": count, "half": 2, "all": 1}[there]
        shards = [
            Shard(place * 4, place * 4 + 3, Path("x"), {})
            for place in range(0, count, step)
            if there != "none"
        ]
        monkeypatch.setattr(CellFolder, "shards", lambda self: shards)
        cell = CellFolder(Path("nowhere"))
        return lines(lambda: cell.missing(4 * count, 4, 4))

    missing(10)
    few, many = missing(100), missing(1000)
    assert 9 * few < many < 11 * few


def test_pairs_of_rows_share_their_random_signs(monkeypatch):
    """k rows have k (k - 1) / 2 pairs, and take as many draws of signs as two rows do."""
    drawn = []
    real = paired._signs
    monkeypatch.setattr(paired, "_signs", lambda *terms: drawn.append(terms) or real(*terms))
    random = np.random.default_rng(0)
    base = random.normal(0, 5, 60)

    def draws(count):
        drawn.clear()
        paired.paired_tests([base + random.normal(0, 1, 60) for _ in range(count)])
        assert drawn
        return len(drawn)

    blocks = -(-paired.PERMUTATIONS // paired._BLOCK)
    assert draws(2) <= blocks
    assert draws(12) <= blocks
