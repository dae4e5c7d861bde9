"""Whether what attacks are given in a target's place (`Target.equivalent`) computes the same."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.contracts.target import Output, Target
from bench.errors import ContractBroken
from bench.evaluation.outputs import differing_unit, freeze
from bench.evaluation.target_checks import BATCH_TOLERANCE, copy_target, evaluate
from bench.store.target import FloatNoise


def equivalent_of(target: Target, images: Tensor) -> Target:
    """What attacks are given in the target's place, compared with it.

    Args:
        target: that is scored; a copy of it is asked.
        images: (N, C, H, W) in [0,1], a batch of real images.

    Returns:
        A frozen network of its own (`Target.equivalent`).

    Raises:
        ContractBroken: it is not equivalent.
    """
    own = copy_target(target)
    found: object = own.equivalent()
    if not isinstance(found, Target):
        raise ContractBroken(
            f"equivalent() returned {type(found).__name__}, expected a Target",
            hint="return self, or a network that computes the same",
        )
    reference = copy_target(found)
    freeze(reference)
    seeds = torch.arange(len(images))
    seen, expected = evaluate(reference, images, seeds), evaluate(own, images, seeds)
    check_equivalent(target, seen, expected, "probe image")
    return reference


def check_equivalent(target: Target, seen: Output, own: Output, where: str) -> None:
    """Whether what attacks are given in a target's place (`Target.equivalent`) computes the same.

    Args:
        target: that is scored.
        seen: of the equivalent network.
        own: of the target, on the same images and seeds.
        where: what the images are, for the message.

    Raises:
        ContractBroken: they differ by more than float noise.
    """
    scale = float(own.margins.abs().amax().clamp(min=1)) if own.margins.numel() else 1.0
    noise = FloatNoise(BATCH_TOLERANCE, BATCH_TOLERANCE * scale)
    differ = (seen.decisions != own.decisions).any(1)
    for i in differ.nonzero().flatten().tolist():
        unit = differing_unit(target, seen.decisions[i], own.decisions[i], own.margins[i], noise)
        if unit is not None:
            raise ContractBroken(
                f"the equivalent network decides {target.units.name[unit]} differently "
                f"on {where} {i}, beyond float noise",
                hint="return self from `equivalent`, or a network that computes the same",
            )
    gaps = (seen.logits - own.logits).abs().amax(1)
    apart = float(gaps.masked_fill(differ, 0).amax()) if len(gaps) else 0.0
    if not apart <= BATCH_TOLERANCE * float(own.logits.abs().amax().clamp(min=1)):
        raise ContractBroken(
            f"the logits of the equivalent network differ by {apart:.3g} on a {where}",
            hint="return self from `equivalent`, or a network that computes the same",
        )
