"""Intervals of means, ratios and shares; numpy only.

Everything is paired by image: the same images stand on both sides of every comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

LEVEL = 0.95
DRAWS = 10_000

UNDEFINED_BELOW = 0.01
"""Recovery is undefined where the reserve, ceiling - clean, is under this share of the ceiling."""

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
    return intervals(values[None], level)[0]


def intervals(values: Array, level: float = LEVEL) -> list[tuple[float, float]]:
    """`interval` of each row.

    Args:
        values: (K, draws).
        level: the share that lies inside, in (0, 1).

    Returns:
        Both ends of each of the K rows; NaN for a row without a finite value.

    Examples:
        >>> intervals(np.array([[0.0, 1.0, 2.0], [5.0, np.nan, 5.0]]), 0.5)
        [(0.5, 1.5), (5.0, 5.0)]
    """
    ends = [(1 - level) / 2, (1 + level) / 2]
    finite = np.isfinite(values)
    whole = finite.all(1)
    found = np.full((len(values), 2), math.nan)
    if values.shape[1]:
        found[whole] = np.quantile(values[whole], ends, axis=1).T
    for place in np.flatnonzero(~whole & finite.any(1)):
        found[place] = np.quantile(values[place][finite[place]], ends)
    return [(float(low), float(high)) for low, high in found]


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


def has_reserve(clean: Array, ceiling: int) -> bool:
    """Whether clean images save enough that winning it back is a number.

    Args:
        clean: (n,) clean MACs.
        ceiling: what savings are measured against, in MACs.

    Examples:
        >>> has_reserve(np.array([90, 100]), 100), has_reserve(np.array([999]), 1000)
        (True, False)
        >>> has_reserve(np.zeros(0), 100)
        False
    """
    reserve = ceiling - clean.astype(np.float64)
    return bool(len(reserve) and reserve.mean() >= UNDEFINED_BELOW * ceiling)


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
