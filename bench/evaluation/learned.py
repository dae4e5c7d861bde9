"""What a plugin learned from the images of the fit split."""

from __future__ import annotations

import hashlib

import torch
from safetensors.torch import save
from torch import Tensor

from bench.errors import ContractBroken
from bench.evaluation.plain import plain_copy


def plain_learned(found: object, who: str) -> dict[str, Tensor]:
    """What a fit returned, as plain tensors on the CPU that nobody else holds.

    Args:
        found: what it returned.
        who: "NAME.fit", for the message.

    Raises:
        ContractBroken: it is something else than named, finite tensors.
    """
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in found.items()
    ):
        raise ContractBroken(
            f"{who} returned {type(found).__name__}, expected a dict of named tensors",
            hint='return for example {"delta": delta}, or {} where nothing was learned',
        )
    learned = {
        key: plain_copy(value, f"{key!r} of {who}").cpu().contiguous()
        for key, value in found.items()
    }
    for key, value in learned.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ContractBroken(
                f"{who} returned NaN or infinity in {key!r}",
                hint="look for a division by 0 or a step that diverges, and return finite numbers",
            )
    return learned


def learned_digest(data: bytes) -> str:
    """The sha256 of what was learned, as safetensors write it."""
    return hashlib.sha256(data).hexdigest()


def digest_of(learned: dict[str, Tensor]) -> str:
    """The digest of what was learned."""
    return learned_digest(save(learned))
