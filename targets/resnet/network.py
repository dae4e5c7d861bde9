"""The plain residual network, on which the accuracy of dynamic ones is compared."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bench.api import Output, Units
from targets.pieces.counting import require_one
from targets.resnet.backbone import Backbone


class ResNet(Backbone):
    """A plain residual network: the static twin that spends the same MACs on every image, so that
    no attack can gain any.

    Args:
        depth: 6n+2 in the cifar layout (20, 38, 74, 110, 152 …); 18, 34, 50, 101 or 152 in the
            imagenet layout.
        layout: "cifar" takes 32x32 images, "imagenet" 224x224.
        num_classes: "auto" is 10 for cifar and 1000 for imagenet.

    Its weights are those of a SkipNet of the same depth without the gates, under the same names.
    Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016.
    """

    follows = "He et al., Deep Residual Learning for Image Recognition, CVPR 2016"
    unit = "none"
    skipped = "nothing; every image costs the same"

    def __init__(
        self,
        *,
        depth: int = 20,
        layout: Literal["cifar", "imagenet"] = "cifar",
        num_classes: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(layout, depth, num_classes)
        self.initialize()
        with torch.device("cpu"):
            self.units = Units.gated([], [], [])
        self._total = self.outer_macs() + sum(self.block_macs())

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Logits of N images; there is nothing to decide, so `decisions` can only be (N, 0)."""
        x = self.stem(images)
        for place in self.places:
            x = self.get_submodule(place.layer)(x, self.shortcut(place, x))
        logits = self.head(x)
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
