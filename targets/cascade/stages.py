"""The networks of a cascade, and images in the sizes that they take."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from targets.pieces.timm_network import timm_network
from targets.resnet import ResNet


class Classifier(nn.Module):
    """A whole network that takes images in [0,1] and normalizes them itself.

    Args:
        name: "resnet-20" and other depths of our residual networks for 32x32 images, or any
            classifier of timm.
        num_classes: "auto" is 10, and 1000 for timm models.

    Attributes:
        classes: K.
        size: height and width of the images that it was made for.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, num_classes: int | Literal["auto"]) -> None:
        super().__init__()
        family, _, depth = name.partition("-")
        self.ours = family == "resnet" and depth.isdigit()
        self.net: nn.Module
        if self.ours:
            own = ResNet(depth=int(depth), layout="cifar", num_classes=num_classes)
            self.net, self.classes, self.size = own, own.classes, own.image_shape[1]
            return
        made = timm_network(name, num_classes)
        self.net, self.classes, self.size = made.net, made.classes, made.image_shape[1]
        self.register_buffer("mean", made.mean, persistent=False)
        self.register_buffer("std", made.std, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(N, K) logits of images (N, 3, H, W) in [0,1]."""
        if self.ours:
            found: Tensor = self.net(images).logits
            return found
        logits: Tensor = self.net((images - self.mean) / self.std)
        return logits


def resized(images: Tensor, size: int) -> Tensor:
    """(N, C, size, size) images from (N, C, H, W), differentiable; the same where nothing changes.

    Bilinear with antialiasing: every new pixel is a weighted mean of old ones, so images stay in
    [0,1]. Such resampling is not counted as MACs, like pooling.
    """
    if images.shape[-1] == images.shape[-2] == size:
        return images
    return F.interpolate(
        images, size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
