"""VGG-16 with batch normalization for 32x32 images, as the backbone of multi-exit networks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bench.errors import PlanError
from targets.sdn.chains import Chain, Tap, Visit

WIDTHS = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
POOLED = (1, 3, 6, 9, 12)
"""The convolutions behind which the map is halved."""


class VGG16BN(Chain):
    """Thirteen 3x3 convolutions with biases, batch normalization and ReLU, two linear layers
    without an activation between them.

    Taps lie behind every convolution (and its pooling, where there is one) and behind the first
    linear layer: the fourteen layers of DeepSloth. The six of SDN are those flagged in its code.

    Source: Simonyan and Zisserman, ICLR 2015; the form for CIFAR is that of Kaya et al.,
    Shallow-Deep Networks, ICML 2019.
    """

    mean: Tensor
    std: Tensor
    flags = (1, 3, 5, 6, 8, 9)

    def __init__(self, num_classes: int | Literal["auto"]) -> None:
        super().__init__()
        self.image_shape, self.classes = (3, 32, 32), 10 if num_classes == "auto" else num_classes
        if self.classes < 2:
            raise PlanError(f"num_classes = {self.classes}: an exit needs at least 2")
        self.register_buffer(
            "mean", torch.tensor((0.485, 0.456, 0.406)).view(3, 1, 1), persistent=False
        )
        self.register_buffer(
            "std", torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1), persistent=False
        )
        layers, taps, channels, size = [], [], 3, 32
        for index, width in enumerate(WIDTHS):
            pieces = [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            if index in POOLED:
                pieces.append(nn.MaxPool2d(2))
                size //= 2
            layers.append(nn.Sequential(*pieces))
            taps.append(Tap(f"conv{index + 1}", (width, size, size)))
            channels = width
        self.layers = nn.ModuleList(layers)
        self.fc1, self.dropout, self.fc2 = (
            nn.Linear(512, 512),
            nn.Dropout(),
            nn.Linear(512, self.classes),
        )
        self.taps = (*taps, Tap("fc1", (512, 1, 1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def run(self, images: Tensor, visit: Visit) -> Tensor | None:
        x = (images - self.mean) / self.std
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if visit(index, x):
                return None
        x = self.fc1(x.flatten(1))
        if visit(len(self.layers), x[:, :, None, None]):
            return None
        logits: Tensor = self.fc2(self.dropout(x))
        return logits
