"""The judge of images: what an attack returned, made into images inside its threat.

What cannot be put right raises `ContractBroken`, and the cell becomes `invalid`; an image outside
its threat is projected and flagged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench import codec
from bench.contracts.threat import Threat
from bench.errors import ContractBroken
from bench.evaluation.plain import plain_copy
from bench.image import overshoot, project, settle, to_float


@dataclass(frozen=True)
class JudgedImages:
    """What became of a batch of adversarial images.

    Attributes:
        saved: (N, C, H, W) uint8, inside the threat: the decoded `pictures`.
        pictures: the PNG bytes of each, as they are stored.
        projected: (N, C, H, W) float, inside the threat, before rounding.
        overshoot: (N,) bool, the attack left its threat or [0,1] and was projected.
    """

    saved: Tensor
    pictures: Sequence[bytes]
    projected: Tensor
    overshoot: Tensor


def judge_images(adversarial: Any, clean: Tensor, threat: Threat) -> JudgedImages:
    """Project, round, settle and encode what an attack returned.

    Args:
        adversarial: what the attack returned, to be (N, C, H, W) float.
        clean: (N, C, H, W) uint8.
        threat: that the images have to keep to.

    Raises:
        ContractBroken: wrong type or shape, or NaN or infinity in it.
    """
    shape = tuple(clean.shape)
    hint = "return float images in [0,1] of the shape that was handed over"
    if not isinstance(adversarial, Tensor):
        kind = type(adversarial).__name__
        message = f"the attack returned {kind}, expected images of shape {shape}"
        raise ContractBroken(message, hint=hint)
    given = plain_copy(adversarial, "the attack's images")
    if given.shape != clean.shape:
        message = f"the attack returned {tuple(given.shape)}, expected images of shape {shape}"
        raise ContractBroken(message, hint=hint)
    if not given.is_floating_point():
        raise ContractBroken(
            f"the attack returned {given.dtype}, expected float images in [0,1]", hint=hint
        )
    images = given.cpu().to(torch.float32)
    if not bool(torch.isfinite(images).all()):
        raise ContractBroken("the attack returned NaN or infinity", hint=hint)
    start = to_float(clean)
    beyond = ((images < -1e-6) | (images > 1 + 1e-6)).flatten(1).any(1)
    outside = overshoot(images, start, threat) | beyond
    pictures = [codec.png(image) for image in settle(images, clean, threat)]
    saved = codec.decoded(pictures, codec.size_of(shape[1:]))
    return JudgedImages(saved, pictures, project(images, start, threat), outside)
