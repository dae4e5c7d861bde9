"""Released states of vision transformers: timm's names, recognized by their shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bench.errors import WeightsError

_BLOCK = re.compile(r"blocks\.(\d+)\.")
_NAMED = {192: "tiny", 384: "small", 768: "base"}
"""Width of a token -> the size of a DeiT."""


def timm_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a released transformer under the names used here."""
    return {f"net.{name}": value for name, value in state.items()}


def recognize_transformer(state: Mapping[str, Tensor], network: str) -> dict[str, Any]:
    """backbone and num_classes of a released state.

    Args:
        state: in timm's names.
        network: whose, for messages.

    Raises:
        WeightsError: it has no class token, positions, blocks and head of a DeiT.
    """
    positions, head = state.get("pos_embed"), state.get("head.weight")
    blocks = {int(found[1]) for name in state if (found := _BLOCK.match(name))}
    if positions is None or head is None or positions.ndim != 3 or head.ndim != 2 or not blocks:
        raise WeightsError(
            f"no {network}: names such as pos_embed, blocks.0.attn.qkv.weight and head.weight are "
            "expected",
            hint=f"the file begins with {', '.join(sorted(state)[:3]) or 'nothing'}",
        )
    width, depth = positions.shape[2], len(blocks)
    if "patch_embed.layers.0.weight" in state:
        few = "-p8" if positions.shape[1] == 17 else ""
        return {"backbone": f"vit-{width}x{depth}{few}", "num_classes": head.shape[0]}
    if width not in _NAMED or depth != 12 or positions.shape[1] != 197:
        raise WeightsError(
            f"{depth} blocks of {positions.shape[1]} tokens of width {width} are no DeiT; tiny, "
            "small and base have 12 blocks of 197 tokens of width 192, 384 and 768"
        )
    return {"backbone": f"deit_{_NAMED[width]}_patch16_224", "num_classes": head.shape[0]}
