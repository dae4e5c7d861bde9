"""How sure a classifier is, and the rule that takes the first of several that is sure enough."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bench.errors import PlanError


def confidence(logits: Tensor) -> Tensor:
    """(...) the largest softmax of (..., K) logits."""
    return logits.softmax(-1).amax(-1)


def log_odds(logits: Tensor) -> Tensor:
    """(...) log(p / (1 - p)) of the largest softmax p of (..., K) logits: its logit less the
    log-sum of the others'."""
    best = logits.argmax(-1, keepdim=True)
    others = torch.where(torch.zeros_like(logits).scatter(-1, best, 1.0) > 0, float("-inf"), logits)
    return logits.gather(-1, best).squeeze(-1) - others.logsumexp(-1)


def first_sure(sure: Tensor) -> Tensor:
    """(N,) the first that is sure, or E where none is, from (N, E) bool."""
    none = sure.new_ones(len(sure), 1)
    return torch.cat([sure, none], 1).to(torch.int64).argmax(1)


def require_threshold(value: float) -> float:
    """`value`, if an exit can have it for a threshold.

    Raises:
        PlanError: it is not between 0 and 1.
    """
    if not (0 < value < 1 and math.isfinite(value)):
        raise PlanError(f'threshold = {value}: a confidence above 0 and below 1, or "weights"')
    return float(value)
