"""How many draws of a random target each look of an attack averages over (EOT: Athalye et al., ICML
2018). Imports no torch."""

from __future__ import annotations

PASSES_OF_A_LOOK = 75
"""Forward-equivalents left to each draw: 25 steps of a forward and a backward."""


def affordable_draws(own: int, budget: int) -> int:
    """As many of the target's own draws as leave 25 steps; at least 1, fresh in every look, so that
    steps average where looks do not.

    Args:
        own: over how many draws the target is scored.
        budget: forward-equivalents an image.
    """
    return max(1, min(own, budget // PASSES_OF_A_LOOK))
