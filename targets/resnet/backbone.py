"""A residual network block by block: what all networks on it share, and what its pieces cost."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bench.api import Target
from bench.errors import PlanError
from targets.pieces.counting import macs_of
from targets.pieces.folding import folded
from targets.resnet.blocks import Family, Layout, Place, layout_for


class Backbone(Target):
    """Stem, blocks, projections and head of a residual network; what runs is up to the subclass."""

    mean: Tensor
    std: Tensor

    def __init__(self, family: Family, depth: int, num_classes: int | Literal["auto"]) -> None:
        super().__init__()
        layout = layout_for(family, depth)
        self.classes = layout.num_classes if num_classes == "auto" else num_classes
        if self.classes < 1:
            raise PlanError(
                f'num_classes = {self.classes}: at least 1, or "auto" for {layout.num_classes}'
            )
        self.image_shape = (3, layout.size, layout.size)
        self.register_buffer("mean", torch.tensor(layout.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(layout.std).view(3, 1, 1), persistent=False)
        self.conv1 = nn.Conv2d(
            3, layout.widths[0], *((3, 1, 1) if family == "cifar" else (7, 2, 3)), bias=False
        )
        self.bn1 = nn.BatchNorm2d(layout.widths[0])
        self.pool = nn.Identity() if family == "cifar" else nn.MaxPool2d(3, 2, 1)
        self.places = self._build_groups(
            layout, layout.size if family == "cifar" else layout.size // 4
        )
        self.fc = nn.Linear(self.places[-1].outputs[0], self.classes)

    def _build_groups(self, layout: Layout, size: int) -> tuple[Place, ...]:
        places: list[Place] = []
        channels = layout.widths[0]
        for group, (count, width) in enumerate(
            zip(layout.counts, layout.widths, strict=True), start=1
        ):
            for index in range(count):
                stride = 2 if group > 1 and index == 0 else 1
                wide = width * layout.block.expansion
                name, projection = f"group{group}", None
                if stride != 1 or channels != wide:
                    projection = f"{name}_ds{index}"
                    self.add_module(
                        projection,
                        nn.Sequential(
                            nn.Conv2d(channels, wide, 1, stride, bias=False), nn.BatchNorm2d(wide)
                        ),
                    )
                self.add_module(f"{name}_layer{index}", layout.block(channels, width, stride))
                inputs, outputs = (channels, size, size), (wide, size // stride, size // stride)
                gate = f"{name}_gate{index}"
                places.append(
                    Place(
                        f"{name}.block{index}",
                        f"{name}_layer{index}",
                        projection,
                        gate,
                        inputs,
                        outputs,
                    )
                )
                channels, size = wide, size // stride
        return tuple(places)

    def initialize(self) -> None:
        """The original's initialization: convolutions N(0, sqrt(2 / (k k C_out))), linear layers
        N(0, sqrt(2 / (C_in C_out)))."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, (2 / module.weight.numel()) ** 0.5)

    def equivalent(self) -> Target:
        """This network with its normalizations folded into its convolutions."""
        return folded(self)

    def stem(self, images: Tensor) -> Tensor:
        """Features in front of the first block, from images in [0,1]."""
        features: Tensor = self.pool(self.bn1(self.conv1((images - self.mean) / self.std)).relu_())
        return features

    def shortcut(self, place: Place, x: Tensor) -> Tensor:
        """What passes a block by: x itself, or its projection where the shape changes."""
        return x if place.projection is None else self.get_submodule(place.projection)(x)

    def head(self, x: Tensor) -> Tensor:
        """(N, K) logits from the last features."""
        logits: Tensor = self.fc(x.sum((2, 3)) / (x.shape[2] * x.shape[3]))
        return logits

    def block_macs(self) -> list[int]:
        """MACs of each block, without its projection."""
        known: dict[object, int] = {}
        for place in self.places:
            key = place.inputs, place.outputs
            if key not in known:
                known[key] = macs_of(self.get_submodule(place.layer), place.inputs, place.outputs)
        return [known[place.inputs, place.outputs] for place in self.places]

    def outer_macs(self) -> int:
        """MACs of the stem, all projections and the head: what runs whatever is decided."""
        projections = [
            (self.get_submodule(place.projection), place.inputs)
            for place in self.places
            if place.projection
        ]
        pieces = [(self.conv1, self.image_shape), *projections, (self.fc, (self.fc.in_features,))]
        return sum(macs_of(module, shape) for module, shape in pieces)
