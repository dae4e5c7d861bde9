"""Ranks over a whole board: shared where nothing is clear, told apart where it is, however many
rows there are."""

import numpy as np

from bench.results.ranking import Contender, rank


def contenders(costs, n=100, noise=10.0):
    generator = np.random.default_rng(0)
    luck = generator.normal(0, 50, n)
    return [
        Contender(
            (f"t{i}", ""),
            np.round(cost + luck + generator.normal(0, noise, n)).astype(np.int64),
            1000,
            False,
        )
        for i, cost in enumerate(costs)
    ]


def test_many_targets_that_differ_clearly_have_ranks_of_their_own():
    """Sixty targets are 1770 comparisons: simulation alone could never show anything to Holm."""
    found = rank(contenders(range(0, 600, 10)))
    assert [found.targets[f"t{i}", ""] for i in range(60)] == list(range(1, 61))


def test_targets_that_do_not_differ_share_a_rank():
    found = rank(contenders([500] * 20 + [700]))
    assert {found.targets[f"t{i}", ""] for i in range(20)} == {1}
    assert found.targets["t20", ""] == 21
