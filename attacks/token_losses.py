"""Losses that were written for vision transformers that drop tokens, said in terms of gates.

DeSparsify brings every gate value to its end: the cumulative halting score of a token to 0, the
keep score of a token to 1, each as a squared error (Yehezkel et al., NeurIPS 2024, section 4).
SlowFormer makes networks use more: the ponder cost where tokens halt, the sum of keep scores where
they are kept or dropped (Navaneet et al., CVPR 2024, section 3).

Both are means or sums over the units of one image and never mix images. They read gate values, so
they speak of every family whose gates are bounded above.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.objective import missing_ponder
from bench.api import Output, Units

KEEP_ANSWER = 8e-4
"""Weight of the cross-entropy with the clean prediction in DeSparsify's loss."""


def openness(output: Output, units: Units) -> Tensor:
    """(M,) mean_j (high_j - G_j)^2, how far gate values are from their upper bounds: DeSparsify.

    A token that halts has the bound 0.99 and the gate value 0.99 less the sum of its scores, so
    that this is the mean of squared sums; a token that is kept with probability p has (1 - p)^2.

    Args:
        output: of M images.
        units: of the target; every upper bound is finite.
    """
    device = output.margins.device
    highest = units.column("high", device) - units.column("threshold", device)
    far = highest.to(output.margins) - output.margins
    return far.square().mean(1)


def staying(output: Output, labels: Tensor) -> Tensor:
    """(M,) cross-entropy with the clean predictions `labels` (M,), averaged over the classes."""
    return F.cross_entropy(output.logits, labels, reduction="none") / output.logits.shape[1]


def desparsify(output: Output, units: Units, labels: Tensor) -> Tensor:
    """(M,) DeSparsify's loss: open gates at an unchanged answer.

    Args:
        output: of M images.
        units: of the target.
        labels: (M,) the target's own clean predictions.
    """
    return openness(output, units) + KEEP_ANSWER * staying(output, labels)


def slowformer(output: Output, units: Units) -> Tensor:
    """(M,) SlowFormer's loss: what is missing of the ponder cost where units halt, else the mean
    gate value with its sign turned.

    The published loss scales the ponder cost by 5e-4, which no optimizer of a patch alone can see,
    and adds the network's own training prior, which is no part of the network and is left out.
    """
    if is_cumulative(units):
        return missing_ponder(output, units)
    return -(output.margins + units.threshold.to(output.margins)).mean(1)


def is_cumulative(units: Units) -> bool:
    """Whether units halt: they run one after the other until a score that adds up stops them, as
    in SACT, ACT and A-ViT.

    Their gate values have an upper bound under 1, what is left of 1 - epsilon, and no lower one.
    Chains of exits, and tokens kept or dropped at one stage after the other, have other bounds.
    """
    chained = units.after >= 0
    counting = chained & units.low.isinf() & (units.high < 1)
    kinds = [kind != "exit" for kind in units.kind]
    return bool((counting & torch.tensor(kinds, dtype=torch.bool)).any())


def is_bounded(units: Units) -> bool:
    """Whether every gate value has an upper bound."""
    return bool(units.high.isfinite().all())
