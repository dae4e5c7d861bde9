"""Intervals, tests and ranks against closed forms, tables, enumeration and simulation."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results import paired, stats


def test_bootstrap_of_a_mean_against_its_closed_form():
    """Percentile bootstrap of a mean: asymptotically mean ± z s / sqrt(n), with s the plug-in
    deviation."""
    values = np.random.default_rng(1).normal(3, 2, 400)
    found = stats.mean_estimate(values, stats.resamples(400))
    half = NormalDist().inv_cdf(0.975) * values.std() / math.sqrt(400)
    assert found.value == pytest.approx(values.mean(), rel=1e-12)
    assert found.low == pytest.approx(values.mean() - half, abs=0.06 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.06 * half)


def test_bootstrap_of_two_images_by_enumeration():
    """Two images give 0, 1/2, 1 with chances 1/4, 1/2, 1/4: every central 95 % interval is the
    whole range."""
    weights = stats.resamples(2)
    assert set(map(tuple, weights.tolist())) == {(0, 2), (1, 1), (2, 0)}
    assert (weights.sum(1) == 2).all()
    assert float((weights[:, 0] == 1).mean()) == pytest.approx(0.5, abs=0.02)
    found = stats.mean_estimate(np.array([0.0, 1.0]), weights)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_resamples_are_fixed_and_bounded_in_memory():
    assert np.array_equal(stats.resamples(50), stats.resamples(50))
    assert not np.array_equal(stats.resamples(50, 100), stats.resamples(50, 100, seed=1))
    assert stats.resamples(10).shape == (stats.DRAWS, 10)
    assert stats.resamples(5000).shape == (4000, 5000)


def test_a_ratio_is_of_means_not_a_mean_of_ratios():
    above, below = np.array([1.0, 9.0]), np.array([10.0, 10.0 / 3])
    found = stats.ratio_estimate(above, below, stats.resamples(2))
    assert found.value == pytest.approx(0.75)
    assert (found.low, found.high) == pytest.approx((0.1, 2.7))


def test_a_ratio_and_its_interval_are_exact_where_all_images_agree():
    below = np.random.default_rng(0).uniform(1, 5, 30)
    found = stats.ratio_estimate(0.25 * below, below, stats.resamples(30))
    assert (found.value, found.low, found.high) == pytest.approx((0.25, 0.25, 0.25))


def test_what_has_no_number_says_so():
    none = np.zeros(0)
    assert stats.mean_estimate(none, np.zeros((5, 0))) == stats.UNDEFINED
    assert stats.ratio_estimate(none, none, np.zeros((5, 0))) == stats.UNDEFINED
    assert stats.ratio_estimate(np.ones(3), np.zeros(3), stats.resamples(3)) == stats.UNDEFINED


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [  # R: prop.test(k, n, correct = FALSE)$conf.int
        (0, 10, 0.0, 0.2775327998628892),
        (10, 10, 0.7224672001371107, 1.0),
        (5, 10, 0.2365930905125640, 0.7634069094874360),
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes, n, low, high):
    assert stats.wilson(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_shares_use_wilson_only_where_all_agree():
    weights = stats.resamples(40)
    every = stats.share_estimate(np.ones(40, bool), weights)
    assert (every.value, every.low, every.high) == (1.0, *stats.wilson(40, 40))
    assert stats.share_estimate(np.zeros(40, bool), weights).high == stats.wilson(0, 40)[1] > 0
    some = np.arange(40) < 10
    assert stats.share_estimate(some, weights) == stats.mean_estimate(some.astype(float), weights)


@given(st.lists(st.integers(-5, 5), max_size=9))
def test_the_sign_flip_test_is_exact_for_few_images(values):
    d = np.array(values, dtype=float)
    if not d.any():
        assert paired.sign_flip_p(d) == 1
        return
    flips = [
        abs(sum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in itertools.product([1, -1], repeat=len(values))
    ]
    exact = sum(flip >= abs(sum(values)) for flip in flips) / len(flips)
    assert paired.sign_flip_p(d) == pytest.approx(exact, abs=1e-12)


def test_the_sign_flip_test_by_hand():
    assert paired.sign_flip_p(np.ones(5)) == pytest.approx(2 / 32)
    assert paired.sign_flip_p(np.ones(13)) == pytest.approx(2 / 2**13)
    assert paired.sign_flip_p(np.array([1.0, -1.0])) == 1
    assert paired.sign_flip_p(np.ones(100)) == pytest.approx(2 * math.exp(-50)), (
        "never 0: Hoeffding's bound"
    )
    assert 2 * 0.5**20 <= paired.sign_flip_p(np.ones(20)) < 1 / (paired.PERMUTATIONS + 1), (
        "at least what enumeration says"
    )


def test_the_simulated_sign_flip_test_agrees_with_the_normal_limit():
    d = np.random.default_rng(3).normal(0.15, 1, 200)
    z = abs(d.sum()) / math.sqrt(float((d**2).sum()))
    assert paired.sign_flip_p(d) == pytest.approx(2 * (1 - NormalDist().cdf(z)), abs=0.02)


def test_holm_by_hand():
    assert paired.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert paired.holm([0.6, 0.7]) == [1.0, 1.0]
    assert paired.holm([0.2]) == [0.2]
    assert paired.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.randoms())
def test_holm_is_monotone_and_does_not_mind_the_order(p, random):
    adjusted = paired.holm(p)
    assert all(low <= high <= 1 for low, high in zip(p, adjusted, strict=True))
    assert all(
        adjusted[i] <= adjusted[j] for i in range(len(p)) for j in range(len(p)) if p[i] < p[j]
    )
    order = list(range(len(p)))
    random.shuffle(order)
    assert [
        paired.holm([p[i] for i in order])[order.index(i)] for i in range(len(p))
    ] == pytest.approx(adjusted)


def test_equal_rows_are_told_apart_no_more_often_than_the_level_allows():
    """Under the null hypothesis 5 % of paired tests, and at most 5 % of Holm families, may raise a
    false alarm."""
    generator = np.random.default_rng(5)
    alarms = families = 0
    trials = 400
    for _ in range(trials):
        rows = list(generator.exponential(1, (3, 11)))  # skewed, few images: the exact branch
        tests = paired.paired_tests(rows)
        adjusted = paired.holm([p for _, _, p in tests])
        alarms += tests[0][2] <= 0.05
        families += min(adjusted) <= 0.05
    assert alarms / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)
    assert families / trials <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / trials)


def test_false_alarms_of_the_simulated_branch():
    generator = np.random.default_rng(6)
    d = generator.standard_t(3, (600, 30))
    rate = np.mean([paired.sign_flip_p(row, 1000) <= 0.05 for row in d])
    assert 0.02 <= rate <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 600)


def test_a_real_difference_is_found():
    generator = np.random.default_rng(7)
    base = generator.normal(0, 5, 100)
    (i, j, p), *_ = paired.paired_tests([base, base + generator.normal(0.5, 1, 100)])
    assert (i, j) == (0, 1)
    assert p < 0.001, "pairing by image removes the large spread that both rows share"


def test_ranks_are_shared_where_the_difference_is_not_significant():
    means = [0.9, 0.5, 0.49, 0.1]
    p = {(0, 1): 0.01, (0, 2): 0.01, (0, 3): 0.01, (1, 2): 0.8, (1, 3): 0.05, (2, 3): 0.06}
    tests = [(i, j, value) for (i, j), value in p.items()]
    assert paired.shared_ranks(means, tests) == [1, 2, 2, 3]
    assert paired.shared_ranks(means, tests, best=min) == [4, 2, 1, 1]
    assert paired.shared_ranks([1.0, 1.0], [(0, 1, 0.0)]) == [1, 1], (
        "equal means are never ranked apart"
    )
    assert paired.shared_ranks([3.0], []) == [1]


def test_efficacy_is_the_area_under_the_curve_of_images_finished():
    macs = np.array([2, 6, 6, 10])
    found = stats.efficacy(macs, 2, 10)
    assert found.tolist() == [1.0, 0.5, 0.5, 0.0]
    costs = np.linspace(0, 1, 100_001)
    finished = ((macs[:, None] - 2) / 8 <= costs).mean(0)
    assert found.mean() == pytest.approx(finished.mean(), abs=1e-4)
    assert stats.efficacy(np.array([2, 2]), 2, 10).mean() == 1.0, "everyone leaves at once"
    assert stats.efficacy(np.array([10, 10]), 2, 10).mean() == 0.0, "nobody leaves before the end"


def test_no_number_of_images_makes_a_p_of_zero():
    ones = np.ones(2000)
    assert 0 < paired.sign_flip_p(ones) < 1e-300
    ((_, _, p),) = paired.paired_tests([ones, 0 * ones])
    assert 0 < p < 1e-300


def test_what_all_rows_share_hides_no_difference():
    """Networks of 1e14 MACs that differ by single ones, as their sums are compared to 1e-15."""
    signs = np.where(np.arange(1000) < 540, 1.0, -1.0)
    ((_, _, small),) = paired.paired_tests([signs, 0 * signs])
    ((_, _, large),) = paired.paired_tests([1e14 + signs, 1e14 + 0 * signs])
    assert small == large
    assert small == pytest.approx(paired.sign_flip_p(signs), abs=0.005)
