"""Bootstrap intervals of many columns at once; numpy only.

One product of matrices resamples every column of a cell. Neither time nor memory grows faster than
the number of images: from `GROUPS` images on, groups of images are drawn in place of images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from bench.results import stats
from bench.results.stats import UNDEFINED, Array, Estimate

GROUPS = 1000
"""Units of resampling at most.

The variance of a mean over groups drawn at random is that over images, estimated with a relative
error of 1 / sqrt(2 GROUPS), 2 %: less than an interval's simulation noise.
"""
TOGETHER = 16
"""Intervals that are taken at once."""
FEWEST = 2000
"""Draws at least; with fewer images there are up to `stats.DRAWS`."""


def draws_of(units: int) -> int:
    """How many resamples are drawn of so many images or groups."""
    return min(stats.DRAWS, max(FEWEST, 2_000_000 // max(units, 1)))


@lru_cache(maxsize=2)
def groups_of(images: int) -> tuple[Array, Array]:
    """(order of the images, start of each group in that order), at random but fixed."""
    generator = np.random.Generator(np.random.PCG64([images, 1]))
    edges = np.linspace(0, images, GROUPS + 1).astype(np.int64)
    return generator.permutation(images), edges[:-1]


def resampled_sums(columns: Array) -> Array:
    """The sum of each column in each bootstrap resample.

    Args:
        columns: (K, n) one column a row.

    Returns:
        (K, draws) float64.
    """
    n = columns.shape[1]
    if n > GROUPS:
        order, starts = groups_of(n)
        columns = np.add.reduceat(columns[:, order], starts, axis=1)
    weights = stats.resamples(columns.shape[1], draws_of(columns.shape[1]))
    return np.asarray(columns @ weights.T)


@dataclass(frozen=True)
class Request:
    """Columns of one cell whose means and ratios of means are wanted; all over the same images.

    Attributes:
        means: (n,) values by name.
        ratios: (n,) numerator and denominator by name.
    """

    means: Mapping[str, Array]
    ratios: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images the columns are over."""
        columns = [*self.means.values(), *(above for above, _ in self.ratios.values())]
        return len(columns[0]) if columns else 0


def estimates(requests: Sequence[Request]) -> list[dict[str, Estimate]]:
    """Every mean and ratio with its paired bootstrap interval.

    Requests over equally many images share their resamples, and one product of matrices.

    Args:
        requests: of any number of cells.

    Returns:
        The estimates of each request by name; undefined without images, or where a denominator
        sums to 0.
    """
    found: list[dict[str, Estimate]] = [{} for _ in requests]
    alike: dict[int, list[int]] = {}
    for place, request in enumerate(requests):
        alike.setdefault(request.images, []).append(place)
    for images, places in alike.items():
        stack = _Stack(images)
        wanted = [
            (place, name, stack.place(above), stack.place(below))
            for place in places
            for name, above, below in _pairs(requests[place], stack.ones)
        ]
        if images == 0:
            for place, name, _, _ in wanted:
                found[place][name] = UNDEFINED
            continue
        columns = np.array(stack.columns, dtype=np.float64)
        sums, totals = resampled_sums(columns), columns.sum(1)
        defined = sorted({(above, below) for *_, above, below in wanted if totals[below] != 0})
        ends: dict[tuple[int, int], tuple[float, float]] = {}
        for start in range(0, len(defined), TOGETHER):
            block = defined[start : start + TOGETHER]
            over, under = (list(side) for side in zip(*block, strict=True))
            with np.errstate(divide="ignore", invalid="ignore"):
                ends |= zip(block, stats.intervals(sums[over] / sums[under]), strict=True)
        for place, name, above, below in wanted:
            if totals[below] == 0:
                found[place][name] = UNDEFINED
            else:
                value = float(totals[above]) / float(totals[below])
                found[place][name] = Estimate(value, *ends[above, below])
    return found


class _Stack:
    """Columns in the order in which they were first asked for, each once: the clean columns of a
    target are the same in all of its cells.
    """

    def __init__(self, images: int) -> None:
        self.ones: Array = np.ones(images)
        self.columns: list[Array] = []
        self._places: dict[bytes, int] = {}

    def place(self, column: Array) -> int:
        """The row of a column, told by its numbers."""
        numbers = np.asarray(column, dtype=np.float64).tobytes()
        found = self._places.setdefault(numbers, len(self.columns))
        if found == len(self.columns):
            self.columns.append(column)
        return found


def _pairs(request: Request, ones: Array) -> Iterator[tuple[str, Array, Array]]:
    """(name, numerator, denominator) of everything that is wanted."""
    for name, column in request.means.items():
        yield name, column, ones
    for name, (above, below) in request.ratios.items():
        yield name, above, below
