"""A plain vision transformer as the backbone of a multi-exit network."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from targets.sdn.chains import Chain, Tap, Visit
from targets.vit import ViT
from targets.vit.transformer import SMALL


class TransformerChain(Chain):
    """A plain vision transformer with a tap behind every block but the last.

    A tap shows the class token, normalized without weights, as a map of one position: an exit is
    one linear layer on it, as early exits of transformers have it (Xu et al., LGViT, ACM MM 2023,
    compares them).

    Args:
        backbone: as in `ViT`.
        num_classes: as in `ViT`.
    """

    def __init__(self, backbone: str, num_classes: int | Literal["auto"]) -> None:
        super().__init__()
        self.net = ViT(backbone=backbone, num_classes=num_classes)
        self.image_shape, self.classes = self.net.image_shape, self.net.classes
        self.taps = tuple(
            Tap(f"block{number}", (self.net.width, 1, 1)) for number in range(1, self.net.depth)
        )

    def run(self, images: Tensor, visit: Visit) -> Tensor | None:
        net = self.net
        x = net.embed(images)
        for index in range(net.depth):
            x = net.block(index, x)
            if index < len(self.taps):
                shown = F.layer_norm(x[:, 0], (net.width,))
                if visit(index, shown[:, :, None, None]):
                    return None
        return net.classify(x[:, 0])


def is_transformer(backbone: str) -> bool:
    """Whether a backbone is a vision transformer, a small one or one of timm."""
    if SMALL.fullmatch(backbone):
        return True
    import timm

    if not timm.is_model(backbone):
        return False
    module = timm.model_entrypoint(backbone).__module__.rpartition(".")[2]
    return module in ("vision_transformer", "deit")
