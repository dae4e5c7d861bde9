"""Range, threat, eval mode, determinism, honest outputs: nobody else is trusted on these.

What the judge finds wrong with a target or an attack raises `ContractBroken`, and the cell becomes `invalid`; what it can
put right (an image outside its threat) it puts right and flags.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts.threat import Threat
from bench.errors import ContractBroken
from bench.image import overshoot, project, settle, to_float


@dataclass(frozen=True)
class Verdict:
    """What became of a batch of adversarial images.

    Attributes:
        saved: (N, C, H, W) uint8, inside the threat. projected: float, inside the threat, before rounding.
        overshoot: (N,) bool, the attack left its threat or [0,1] and was pulled back.
    """

    saved: Tensor
    projected: Tensor
    overshoot: Tensor


def verdict(adversarial: Tensor, clean: Tensor, threat: Threat) -> Verdict:
    """Project, round and settle what an attack returned.

    Args:
        adversarial: (N, C, H, W) as the attack returned it.
        clean: (N, C, H, W) uint8.

    Raises:
        ContractBroken: wrong type or shape, or NaN or infinity in it.
    """
    if not isinstance(adversarial, Tensor) or adversarial.shape != clean.shape:
        found = (
            tuple(adversarial.shape)
            if isinstance(adversarial, Tensor)
            else type(adversarial).__name__
        )
        raise ContractBroken(
            f"the attack returned {found}, expected images of shape {tuple(clean.shape)}"
        )
    if not adversarial.is_floating_point():
        raise ContractBroken(
            f"the attack returned {adversarial.dtype}, expected float images in [0,1]"
        )
    if not bool(torch.isfinite(adversarial).all()):
        raise ContractBroken("the attack returned NaN or infinity")
    images = adversarial.detach().cpu().to(torch.float32)
    start = to_float(clean)
    outside = overshoot(images, start, threat) | ((images < -1e-6) | (images > 1 + 1e-6)).flatten(
        1
    ).any(1)
    return Verdict(settle(images, clean, threat), project(images, start, threat), outside)
