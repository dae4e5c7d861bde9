"""Intervals, paired tests and ranks; numpy only.

Everything is paired by image: the same images stand on both sides of every comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

LEVEL = 0.95
DRAWS = 10_000
PERMUTATIONS = 10_000
EXTREME_DRAWS = 100
"""Draws as extreme as what was seen after which a simulated test stops: p is exact to a tenth."""

EXACT = 13
"""Images that differ up to which a test enumerates all signs."""
_BLOCK = 1000
"""Draws that are made at once."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; `value` is None where it is undefined (printed as a dash)."""

    value: float | None
    low: float | None = None
    high: float | None = None


UNDEFINED = Estimate(None)
"""What there is no number for."""


@lru_cache(maxsize=4)
def resamples(images: int, draws: int | None = None, seed: int = 0) -> Array:
    """How often each image is drawn in each bootstrap resample; fixed by the seed.

    Args:
        images: how many there are.
        draws: how many resamples; by default `DRAWS`, and fewer (at least 1000) from 2000 images
            on, to bound the memory.
        seed: of the draws.

    Returns:
        (draws, images) float64, kept for the next caller, so not to be written to.

    Examples:
        >>> resamples(4, 3).sum(1).tolist()
        [4.0, 4.0, 4.0]
    """
    if draws is None:
        draws = min(DRAWS, max(1000, 20_000_000 // max(images, 1)))
    generator = np.random.Generator(np.random.PCG64([images, seed]))
    found = generator.multinomial(images, np.full(images, 1 / images), size=draws).astype(
        np.float64
    )
    found.setflags(write=False)
    return found


def interval(values: Array, level: float = LEVEL) -> tuple[float, float]:
    """The central percentile interval of bootstrap values; NaN among them are left out.

    Args:
        values: (draws,).
        level: the share that lies inside, in (0, 1).

    Returns:
        Both ends; NaN where no value is finite.

    Examples:
        >>> [round(end, 6) for end in interval(np.arange(101.0), 0.9)]
        [5.0, 95.0]
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_estimate(values: Array, weights: Array) -> Estimate:
    """The mean over images with a paired bootstrap interval.

    Args:
        values: (n,) one number an image.
        weights: (draws, n) from `resamples`.

    Examples:
        >>> mean_estimate(np.array([1, 1, 1, 1]), resamples(4))
        Estimate(value=1.0, low=1.0, high=1.0)
        >>> mean_estimate(np.zeros(0), np.zeros((1, 0)))
        Estimate(value=None, low=None, high=None)
    """
    if len(values) == 0:
        return Estimate(None)
    values = values.astype(np.float64)
    return Estimate(float(values.mean()), *interval(weights @ values / len(values)))


def ratio_estimate(above: Array, below: Array, weights: Array) -> Estimate:
    """The ratio of two means, both resampled together.

    Args:
        above: (n,) numerator of each image.
        below: (n,) denominator of each image.
        weights: (draws, n) from `resamples`.

    Returns:
        The estimate; undefined where the denominators sum to 0.

    Examples:
        >>> won, reserve = np.array([1, 2, 3]), np.array([2, 4, 6])
        >>> ratio_estimate(won, reserve, resamples(3))
        Estimate(value=0.5, low=0.5, high=0.5)
    """
    total = float(below.sum())
    if len(below) == 0 or total == 0:
        return Estimate(None)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = (weights @ above.astype(np.float64)) / (weights @ below.astype(np.float64))
    return Estimate(float(above.sum()) / total, *interval(draws))


def efficacy(macs: Array, floor: int, ceiling: int) -> Array:
    """The share of the range between floor and ceiling that each image leaves unused.

    Its mean is the network's efficacy: the area under the curve "share of images finished by cost
    c", c from 0 at the floor to 1 at the ceiling. It is 1 when every image leaves at once, and 0
    when none leaves before the end. Hong et al. (DeepSloth, ICLR 2021, section 4) take that area
    over cost as a share of the full cost, with additions, normalization and pooling counted; here
    cost is MACs.

    Args:
        macs: (n,) of each image.
        floor: of the target, in MACs.
        ceiling: of the target, in MACs; not the floor.

    Returns:
        (n,) float64, 0 to 1 for admissible decisions.

    Examples:
        >>> efficacy(np.array([10, 30, 20]), 10, 30).tolist()
        [1.0, 0.0, 0.5]
    """
    return 1 - (macs.astype(np.float64) - floor) / (ceiling - floor)


def wilson(successes: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The Wilson score interval of a share (E. B. Wilson, JASA 1927).

    It has a width where all images agree, unlike a bootstrap.

    Args:
        successes: how many of the images.
        n: images.
        level: of confidence, in (0, 1).

    Returns:
        Both ends; NaN without images.

    Examples:
        >>> low, high = wilson(20, 20)
        >>> f"{low:.3f} {high:.3f}"
        '0.839 1.000'
    """
    if n == 0:
        return math.nan, math.nan
    z = _normal_quantile((1 + level) / 2)
    share = successes / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (centre - half) / scale, (centre + half) / scale
    return (0.0 if successes == 0 else max(low, 0.0)), (1.0 if successes == n else min(high, 1.0))


def share_estimate(hits: Array, weights: Array) -> Estimate:
    """The share of images for which something holds.

    Args:
        hits: (n,) bool.
        weights: (draws, n) from `resamples`.

    Returns:
        The share with its bootstrap interval, or Wilson's where all images agree.

    Examples:
        >>> share_estimate(np.array([True, False, True, True]), resamples(4)).value
        0.75
    """
    if len(hits) and (hits.all() or not hits.any()):
        return agreed_share(hits)
    return mean_estimate(hits.astype(np.float64), weights)


def agreed_share(hits: Array) -> Estimate:
    """The share 0 or 1 of images that all agree, with the Wilson interval.

    Args:
        hits: (n,) bool, all equal.

    Examples:
        >>> agreed_share(np.zeros(20, dtype=bool)).value
        0.0
    """
    n, successes = len(hits), int(hits.sum())
    return Estimate(successes / n, *wilson(successes, n))


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


def sign_flip_p(
    differences: Array,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    *,
    one_sided: bool = False,
    enough: int | None = None,
) -> float:
    """p of a paired randomization test: could the signs of the differences as well be random?

    Exact for at most `EXACT` images that differ. Otherwise Monte Carlo with the add-one rule
    (Phipson and Smyth, 2010), so never below 1 / (permutations + 1). Where that is too coarse,
    Hoeffding's bound (JASA 1963) is used: random signs s give
    P(sum s_i d_i >= t) <= exp(-t^2 / (2 sum d_i^2)).

    Args:
        differences: (n,) one number an image.
        permutations: random sign patterns at most.
        seed: of the patterns.
        one_sided: against a positive mean only, instead of one of either sign.
        enough: stop once so many patterns were as extreme as what was seen; p is then their share
            of the patterns so far, which is as valid (Besag and Clifford, Biometrika 1991).

    Returns:
        p, above 0 and at most 1.

    Examples:
        Three images differ; of 8 patterns, two are as extreme:

        >>> sign_flip_p(np.array([1, 1, 1, 0]))
        0.25
        >>> sign_flip_p(np.array([1, 1, 1, 0]), one_sided=True)
        0.125
    """
    d = differences[differences != 0].astype(np.float64)
    n = len(d)
    if n == 0:
        return 1.0
    size = (lambda sums: sums) if one_sided else np.abs
    total = float(size(d.sum()))
    observed = total - 1e-12 * abs(total)
    if n <= EXACT:
        signs: Array = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
        return float((size(signs @ d) >= observed).mean())
    bound = (
        (1 if one_sided else 2) * math.exp(-(total**2) / (2 * float(d @ d))) if total > 0 else 1.0
    )
    if bound <= 1 / (permutations + 1):
        return bound
    generator = np.random.Generator(np.random.PCG64([n, seed]))
    hits = 0
    for start in range(0, permutations, 1000):
        signs = 1.0 - 2.0 * generator.integers(0, 2, size=(min(1000, permutations - start), n))
        extreme = size(signs @ d) >= observed
        if enough is not None and hits + extreme.sum() >= enough:
            place = int(np.flatnonzero(extreme)[enough - hits - 1])
            return enough / (start + place + 1)
        hits += int(extreme.sum())
    return (hits + 1) / (permutations + 1)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values (S. Holm, A Simple Sequentially Rejective Procedure, 1979).

    Args:
        p: of each test.

    Returns:
        The adjusted values, in the order given.

    Examples:
        >>> holm([0.01, 0.04, 0.02])
        [0.03, 0.04, 0.04]
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, highest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = highest
    return adjusted


def paired_tests(scores: Sequence[Array]) -> list[tuple[int, int, float]]:
    """Tests every pair of rows, paired by image, as `sign_flip_p` does.

    All pairs share their random signs s, so that sum s (x_i - x_j) is the difference of two sums
    taken once a row: k rows need k products with the signs in place of one for each pair.

    Args:
        scores: one (n,) array a row.

    Returns:
        (i, j, two-sided p) of every pair, in the order of the rows.

    Examples:
        >>> paired_tests([np.array([2, 2, 2]), np.array([1, 1, 1]), np.array([1, 1, 1])])
        [(0, 1, 0.25), (0, 2, 0.25), (1, 2, 1.0)]
    """
    if len(scores) < 2:
        return []
    rows = np.array(scores, dtype=np.float64)
    found = np.ones((len(rows), len(rows)))
    simulated = np.zeros(found.shape, dtype=bool)
    for i in range(len(rows) - 1):
        differences = rows[i] - rows[i + 1 :]
        differing = (differences != 0).sum(1)
        squares = np.einsum("jn,jn->j", differences, differences)
        with np.errstate(divide="ignore", invalid="ignore"):
            bounds = 2 * np.exp(-(differences.sum(1) ** 2) / (2 * squares))
        for place in np.flatnonzero(differing):
            j = i + 1 + int(place)
            if differing[place] <= EXACT:
                found[i, j] = sign_flip_p(differences[place])
            elif bounds[place] <= 1 / (PERMUTATIONS + 1):
                found[i, j] = bounds[place]
            else:
                simulated[i, j] = True
    _simulate(rows, simulated, found)
    return [(i, j, float(found[i, j])) for i in range(len(rows)) for j in range(i + 1, len(rows))]


@lru_cache(maxsize=16)
def _signs(images: int, start: int, draws: int) -> Array:
    """(draws, images) int8, each 1 or -1; the same for every target of a board."""
    generator = np.random.Generator(np.random.PCG64([images, start]))
    return 1 - 2 * generator.integers(0, 2, size=(draws, images), dtype=np.int8)


def _simulate(rows: Array, simulated: Array, found: Array) -> None:
    """Write the simulated p of the marked pairs; `EXTREME_DRAWS` extreme draws end a pair."""
    first, second = np.nonzero(simulated)
    if not len(first):
        return
    block = max(1, min(_BLOCK, 4_000_000 // rows.shape[1]))
    totals = rows.sum(1)
    observed = np.abs(totals[first] - totals[second])
    # Sums of equal size in exact arithmetic may differ by the rounding of either.
    observed -= 1e-12 * observed + 1e-15 * np.abs(rows).sum(1).max()
    hits, done = np.zeros(len(first), dtype=np.int64), np.zeros(len(first), dtype=bool)
    for start in range(0, PERMUTATIONS, block):
        signs = _signs(rows.shape[1], start, min(block, PERMUTATIONS - start))
        sums = rows @ signs.T.astype(np.float64)
        for place in np.flatnonzero(~done):
            extreme = np.abs(sums[first[place]] - sums[second[place]]) >= observed[place]
            count = int(np.count_nonzero(extreme))
            if hits[place] + count >= EXTREME_DRAWS:
                last = int(np.flatnonzero(extreme)[EXTREME_DRAWS - hits[place] - 1])
                found[first[place], second[place]] = EXTREME_DRAWS / (start + last + 1)
                done[place] = True
            hits[place] += count
        if done.all():
            return
    for place in np.flatnonzero(~done):
        found[first[place], second[place]] = (hits[place] + 1) / (PERMUTATIONS + 1)


def shared_ranks(
    means: Sequence[float],
    tests: Sequence[tuple[int, int, float]],
    *,
    best: Callable[[Sequence[float]], float] = max,
    level: float = LEVEL,
) -> list[int]:
    """Ranks in which rows that are not significantly different share one.

    The rank of a row is 1 + the number of rows that are significantly better.

    Args:
        means: of each row.
        tests: (i, j, adjusted p) of every pair.
        best: max or min; which mean is best.
        level: of significance, 0.95 for p at most 0.05.

    Returns:
        The rank of each row, from 1.

    Examples:
        >>> shared_ranks([9.0, 8.5, 2.0], [(0, 1, 0.4), (0, 2, 0.01), (1, 2, 0.01)])
        [1, 1, 3]
    """
    better = [0] * len(means)
    for i, j, p in tests:
        if p <= 1 - level and means[i] != means[j]:
            better[j if best([means[i], means[j]]) == means[i] else i] += 1
    return [1 + count for count in better]
