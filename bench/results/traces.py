"""Traces: the best image so far over the evaluations of an attack, thinned to a few points."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

Point = tuple[int, int, float]
"""Forward-equivalents used; MACs of the best image so far; its sum of D^2."""


def thinned(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` of the points, in order.

    Every rise of the MACs first, then evenly among the rest; the last always.
    """
    if len(points) <= most:
        return list(points)
    rises = [i for i, point in enumerate(points) if i == 0 or point[1] > points[i - 1][1]]
    keep = {len(points) - 1, *_even(rises, most - 1)}
    rest = [i for i in range(len(points)) if i not in keep]
    keep.update(_even(rest, most - len(keep)))
    return [points[i] for i in sorted(keep)]


def is_thinned(points: Sequence[Point], whole: Sequence[Point]) -> bool:
    """Whether some points are points of a whole trace, in its order, the last one among them."""
    if not whole or not points:
        return not whole and not points
    return points[-1] == whole[-1] and _in_order(points, whole)


def _in_order(points: Iterable[Point], whole: Sequence[Point]) -> bool:
    place = 0
    for point in points:
        try:
            place = whole.index(point, place)
        except ValueError:
            return False
    return True


def _even(items: list[int], most: int) -> list[int]:
    if most <= 0 or len(items) <= most:
        return items[: max(most, 0)]
    return [items[i * (len(items) - 1) // max(most - 1, 1)] for i in range(most)]
