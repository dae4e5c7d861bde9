"""Many columns resampled at once: the same intervals as one by one, and as closed forms say."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from bench.results import paired, stats
from bench.results.resampling import GROUPS, Request, draws_of, estimates, resampled_sums


def test_up_to_two_hundred_images_the_draws_are_those_of_a_single_column():
    random = np.random.default_rng(0)
    above, below = random.normal(3, 1, 128), random.normal(9, 1, 128)
    weights = stats.resamples(128)
    (found,) = estimates([Request({"mean": above}, {"ratio": (above, below)})])
    for mine, theirs in (
        (found["mean"], stats.mean_estimate(above, weights)),
        (found["ratio"], stats.ratio_estimate(above, below, weights)),
    ):
        assert (mine.value, mine.low, mine.high) == pytest.approx(
            (theirs.value, theirs.low, theirs.high), rel=1e-12
        )


@pytest.mark.parametrize("images", [300, 1000, 1001, 5000], ids=lambda n: f"{n} images")
def test_intervals_of_many_images_against_the_normal_limit(images):
    values = np.random.default_rng(images).exponential(2, images)
    (found,) = estimates([Request({"mean": values})])
    half = NormalDist().inv_cdf(0.975) * values.std() / math.sqrt(images)
    assert found["mean"].value == pytest.approx(values.mean(), rel=1e-12)
    assert found["mean"].low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found["mean"].high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_memory_stays_the_same_however_many_images_there_are():
    assert resampled_sums(np.ones((1, 20_000))).shape == (1, draws_of(GROUPS))
    assert resampled_sums(np.ones((1, 20_000))) == pytest.approx(20_000, rel=0.2)


def test_requests_over_other_images_do_not_mix():
    first, second = np.arange(5.0), np.arange(7.0)
    found = estimates([Request({"a": first}), Request({"a": second}), Request({"a": first})])
    assert [one["a"].value for one in found] == [2.0, 3.0, 2.0]
    assert found[0] == found[2]


def test_what_has_no_number_says_so():
    none = np.zeros(0)
    (empty,) = estimates([Request({"a": none}, {"b": (none, none)})])
    assert set(empty.values()) == {stats.UNDEFINED}
    (zero,) = estimates([Request({}, {"b": (np.ones(3), np.zeros(3))})])
    assert zero["b"] == stats.UNDEFINED


def test_pairs_share_their_signs_and_agree_with_the_test_of_one_pair():
    random = np.random.default_rng(1)
    base = random.normal(0, 5, 60)
    rows = [base + random.normal(0.2 * i, 1, 60) for i in range(6)]
    for i, j, p in paired.paired_tests(rows):
        alone = paired.sign_flip_p(rows[i] - rows[j])
        assert p == pytest.approx(alone, rel=0.35, abs=0.002)
