"""How sure an exit, or a stage of a cascade, has to be: chosen on images that no step saw."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.api import Part
from targets.pieces.confidence import confidence, first_sure

GRID = (*(step / 100 for step in range(20, 100)), 0.995, 0.999)
"""Thresholds that are tried."""


def choose_threshold(exits: Callable[[Tensor], Tensor], held: Part, drop: float) -> float:
    """The smallest of `GRID` at which early answers cost at most `drop` of the last one's
    accuracy; the largest if none is.

    Args:
        exits: (N, C, H, W) images in [0,1] -> (N, E, K) logits, in evaluation mode.
        held: images that no training step saw.
        drop: relative.
    """
    found = []
    with torch.no_grad():
        for start in range(0, len(held), 100):
            images = held.images(range(start, min(start + 100, len(held))))
            found.append(exits(images.to(torch.float32) / 255))
    logits = torch.cat(found)
    right, sure = logits.argmax(2) == held.labels[:, None], confidence(logits[:, :-1])
    final = float(right[:, -1].double().mean())
    rows = torch.arange(len(logits))
    for threshold in GRID:
        accuracy = float(right[rows, first_sure(sure >= threshold)].double().mean())
        if accuracy >= (1 - drop) * final:
            return threshold
    return GRID[-1]
