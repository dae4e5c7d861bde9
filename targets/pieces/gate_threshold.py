"""The gate value from which on a unit runs, where a plan may move it."""

from __future__ import annotations

import math

from bench.errors import PlanError


def require_gate_threshold(value: float) -> float:
    """`value`, if a gate with values in (0, 1) can have it for a threshold.

    Raises:
        PlanError: nothing, or everything, would run.

    Example:
        >>> require_gate_threshold(0.5)
        0.5
    """
    if not 0 < value < 1:
        raise PlanError(f"threshold = {value}: a gate value above 0 and below 1")
    return value


def log_odds_of(threshold: float) -> float:
    """What the logit of a gate value is at its threshold: log(t / (1 - t)).

    Example:
        >>> log_odds_of(0.5)
        0.0
    """
    return math.log(threshold / (1 - threshold))
