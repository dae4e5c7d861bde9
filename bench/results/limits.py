"""A share beside its limit: what counts as beyond it, and how both are written so that they differ.

Shares are made of whole MACs by division, so one that lies on its limit may come out a hair beside
it; and 0.2996 and 0.3 are both "30.0 %".
"""

from __future__ import annotations

from bench.terminal import fixed

ROUNDING = 1e-12
"""What arithmetic may add to a share; a difference no larger is none."""

_MOST_PLACES = 12


def exceeds(share: float, limit: float) -> bool:
    """Whether a share is above its limit by more than arithmetic adds.

    Examples:
        >>> 0.31 - 0.30 > 0.01, exceeds(0.31 - 0.30, 0.01), exceeds(0.0100001, 0.01)
        (True, False, True)
    """
    return share - limit > ROUNDING


def places_apart(value: float, limit: float, least: int = 1) -> int:
    """Decimal places, at least `least`, with which `fixed` writes two unequal numbers differently.

    Examples:
        >>> places_apart(29.0, 30.0), places_apart(29.96, 30.0), places_apart(30.0, 30.0)
        (1, 2, 1)
    """
    if value == limit:
        return least
    for places in range(least, _MOST_PLACES):
        if fixed(value, places) != fixed(limit, places):
            return places
    return least


def exact(limit: float) -> str:
    """A limit as it was given, without what arithmetic added.

    Examples:
        >>> exact(100 * 0.01), exact(100 * 0.07), exact(1.23456789)
        ('1', '7', '1.23456789')
    """
    return f"{limit:.12g}"
