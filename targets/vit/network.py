"""The plain vision transformer, on which the accuracy of those that drop tokens is compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.api import Output, Units
from targets.pieces.counting import require_one
from targets.vit.backbone import TransformerBackbone


class ViT(TransformerBackbone):
    """A plain vision transformer: the static twin that spends the same MACs on every image, so that
    no attack can gain any.

    Args:
        backbone: "vit-WIDTHxDEPTH" for 32x32 images with 8x8 patch tokens, or 4x4 with "-p8"
            behind it; or any plain vision transformer of timm ("deit_tiny_patch16_224").
        num_classes: "auto" is 10, and 1000 for models of timm.

    The small ones have a convolutional stem, patch tokens and a class token, heads of 16 channels
    and an MLP of twice their width.

    Source: Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; Touvron et al., Training
    data-efficient image transformers (DeiT), ICML 2021.
    """

    follows = (
        "Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021; Touvron et al., DeiT, ICML "
        "2021"
    )
    unit = "none"
    skipped = "nothing; every image costs the same"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deit-tiny": {"backbone": "deit_tiny_patch16_224"},
        "deit-small": {"backbone": "deit_small_patch16_224"},
    }

    def __init__(
        self, *, backbone: str = "vit-32x6", num_classes: int | Literal["auto"] = "auto"
    ) -> None:
        super().__init__(backbone, num_classes)
        with torch.device("cpu"):
            self.units = Units.gated([], [], [])
            self._total = self.outer_macs() + self.depth * int(
                self.block_macs(torch.tensor(self.tokens))
            )

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Logits of N images; there is nothing to decide, so `decisions` can only be (N, 0)."""
        x = self.embed(images)
        for index in range(self.depth):
            x = self.block(index, x)
        logits = self.classify(x[:, 0])
        nothing = logits.new_zeros(len(images), 0)
        return Output(logits, nothing, nothing, nothing.to(torch.bool))

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """One image; everything runs."""
        require_one(image)
        output: Output = self(image)
        return output

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64, the same for every image."""
        return torch.full(
            (len(decisions),), self._total, dtype=torch.int64, device=decisions.device
        )
