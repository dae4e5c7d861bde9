"""Residual networks block by block, as SkipNet's authors wired them, and what each of their pieces costs.

The CIFAR family has depths 6n+2 (three groups of n basic blocks, 16/32/64 channels at 32/16/8 pixels); the ImageNet
family is torchvision's (stride on the 3x3 of a bottleneck). Unlike torchvision's, a block here does not own its
projection: `shortcut` runs it once, also when the block itself is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bench.api import Output, Target, Units
from bench.errors import ContractBroken, PlanError

Family = Literal["cifar", "imagenet"]

IMAGENET_COUNTS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each group of the ImageNet family."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions: relu(bn(conv(relu(bn(conv(x))))) + shortcut)."""

    expansion = 1

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C', H', W') from the input x (N, C, H, W) and its shortcut (N, C', H', W')."""
        x = self.bn1(self.conv1(x)).relu_()
        return self.bn2(self.conv2(x)).add_(shortcut).relu_()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, the stride on the 3x3, four times as many channels out."""

    expansion = 4

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)

    def forward(self, x: Tensor, shortcut: Tensor) -> Tensor:
        """(N, C', H', W') from the input x (N, C, H, W) and its shortcut (N, C', H', W')."""
        x = self.bn1(self.conv1(x)).relu_()
        x = self.bn2(self.conv2(x)).relu_()
        return self.bn3(self.conv3(x)).add_(shortcut).relu_()


@dataclass(frozen=True)
class Layout:
    """What distinguishes one family and depth from another."""

    block: type[BasicBlock] | type[Bottleneck]
    counts: tuple[int, ...]
    widths: tuple[int, ...]
    size: int
    num_classes: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Place:
    """Where a block stands: its name, the names of its modules, and the shapes that pass through it."""

    name: str
    layer: str
    projection: str | None
    gate: str
    inputs: tuple[int, int, int]
    outputs: tuple[int, int, int]


def layout_for(family: Family, depth: int) -> Layout:
    """The layout of a family at a depth.

    Raises:
        PlanError: with the nearest depths, when the family has none like it.
    """
    if family == "cifar":
        n, rest = divmod(depth - 2, 6)
        if rest or n < 1:
            below = max(8, 6 * n + 2)
            raise PlanError(
                f"depth = {depth}: the cifar layout has depths 6n+2 (20, 38, 74, 110, 152 …); did you mean {below} or {below + 6}?"
            )
        return Layout(
            BasicBlock,
            (n,) * 3,
            (16, 32, 64),
            32,
            10,
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
        )
    if depth not in IMAGENET_COUNTS:
        near = min(IMAGENET_COUNTS, key=lambda known: abs(known - depth))
        known = ", ".join(map(str, IMAGENET_COUNTS))
        raise PlanError(
            f"depth = {depth}: the imagenet layout has depths {known}; did you mean {near}?"
        )
    block = BasicBlock if depth < 50 else Bottleneck
    return Layout(
        block,
        IMAGENET_COUNTS[depth],
        (64, 128, 256, 512),
        224,
        1000,
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )


def macs_of(module: nn.Module, *shapes: tuple[int, ...]) -> int:
    """MACs that `module` really executes for one image, counted by ptflops, biases included.

    The module runs once, in eval mode, where its weights are: on the meta device torch would import its compiler for
    batch normalization.

    Args:
        module: any piece of a network.
        shapes: (C, H, W) or (C,) of each input.
    """
    from ptflops.aten_engine import FlopCounterMode

    device = next((value.device for value in module.parameters()), torch.device("cpu"))
    inputs = tuple(torch.zeros((1, *shape), device=device) for shape in shapes)
    counter, was_training = FlopCounterMode(), module.training
    module.eval()
    try:
        with torch.no_grad(), counter:
            module(*inputs)
    finally:
        module.train(was_training)
    return int(counter.complexity)


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

    def initialise(self) -> None:
        """The original's initialisation: convolutions N(0, sqrt(2 / (k k C_out))), linear layers N(0, sqrt(2 / (C_in C_out)))."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, (2 / module.weight.numel()) ** 0.5)

    def stem(self, images: Tensor) -> Tensor:
        """Features in front of the first block, from images in [0,1]."""
        return self.pool(self.bn1(self.conv1((images - self.mean) / self.std)).relu_())

    def shortcut(self, place: Place, x: Tensor) -> Tensor:
        """What passes a block by: x itself, or its projection where the shape changes."""
        return x if place.projection is None else self.get_submodule(place.projection)(x)

    def head(self, x: Tensor) -> Tensor:
        """(N, K) logits from the last features."""
        return self.fc(x.sum((2, 3)) / (x.shape[2] * x.shape[3]))

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


class ResNet(Backbone):
    """A plain residual network: the static twin that spends the same MACs on every image, so that no attack can gain any.

    Args:
        depth: 6n+2 in the cifar layout (20, 38, 74, 110, 152 …); 18, 34, 50, 101 or 152 in the imagenet layout.
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
        self.initialise()
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
        return self(image)

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64, the same for every image."""
        return torch.full(
            (len(decisions),), self._total, dtype=torch.int64, device=decisions.device
        )


def picks_rows(x: Tensor) -> bool:
    """Whether it pays to look which rows of a batch need work, and to gather them: not where the host would wait for a device."""
    return x.device.type == "cpu"


def require_one(image: Tensor) -> None:
    """Refuse batches where a single image is executed.

    Raises:
        ContractBroken: when `image` is not (1, C, H, W).
    """
    if image.ndim != 4 or len(image) != 1:
        raise ContractBroken(f"execute takes one image, (1, C, H, W), got {tuple(image.shape)}")
