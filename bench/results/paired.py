"""Paired tests, their correction, and ranks; numpy only."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from bench.results.stats import LEVEL, Array

PERMUTATIONS = 10_000
EXTREME_DRAWS = 100
"""Draws as extreme as what was seen after which a simulated test stops: p is exact to a tenth."""

EXACT = 13
"""Images that differ up to which a test enumerates all signs."""
_BLOCK = 1000
"""Draws that are made at once."""


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
    bound = (1 if one_sided else 2) * _tail(total**2 / (2 * float(d @ d))) if total > 0 else 1.0
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
            exponents = differences.sum(1) ** 2 / (2 * squares)
        for place in np.flatnonzero(differing):
            j = i + 1 + int(place)
            if differing[place] <= EXACT:
                found[i, j] = sign_flip_p(differences[place])
            elif (bound := 2 * _tail(float(exponents[place]))) <= 1 / (PERMUTATIONS + 1):
                found[i, j] = bound
            else:
                simulated[i, j] = True
    _simulate(rows - rows[0], simulated, found)  # what all rows share would only be rounded
    return [(i, j, float(found[i, j])) for i in range(len(rows)) for j in range(i + 1, len(rows))]


def _tail(exponent: float) -> float:
    """exp(-exponent), but never 0: no number of images makes a p of 0."""
    return max(math.exp(-exponent), sys.float_info.min)


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
        pending = np.flatnonzero(~done)
        needed = np.unique([first[pending], second[pending]])
        sums = dict(zip(needed.tolist(), rows[needed] @ signs.T.astype(np.float64), strict=True))
        for place in pending:
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
