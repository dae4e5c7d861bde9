"""Backbones that can be left on the way: a plain network that shows its features at some places and
goes on, or not."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from targets.resnet import ResNet

Visit = Callable[[int, Tensor], bool]
"""(place, its features (N, C, H, W)) -> whether to leave here."""


@dataclass(frozen=True)
class Tap:
    """A place at which a backbone can be left: a name for people, and the shape (C, H, W) of its
    features."""

    name: str
    shape: tuple[int, int, int]


class Chain(nn.Module, ABC):
    """A plain network with taps; it normalizes images in [0,1] itself.

    Attributes:
        image_shape: (C, H, W).
        classes: K.
        taps: all places at which it can be left, in order.
        flags: which taps the six internal classifiers of SDN sit at, where the paper says so; None
            elsewhere.
    """

    image_shape: tuple[int, int, int]
    classes: int
    taps: tuple[Tap, ...]
    flags: tuple[int, ...] | None = None

    @abstractmethod
    def run(self, images: Tensor, visit: Visit) -> Tensor | None:
        """(N, K) logits, or None as soon as `visit`, called at every tap, says to leave."""

    def forward(self, images: Tensor, visit: Visit) -> Tensor | None:
        """The same as `run`."""
        return self.run(images, visit)

    def macs_on_the_way(self) -> list[int]:
        """MACs of one image up to each tap and to the end, counted by ptflops on an empty image."""
        from ptflops.aten_engine import FlopCounterMode

        counter, found = FlopCounterMode(), list[int]()

        def note(place: int, features: Tensor) -> bool:
            found.append(sum(counter.flop_counts["Global"].values()))
            return False

        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), counter:
                self(
                    torch.zeros((1, *self.image_shape), device=next(self.parameters()).device), note
                )
        finally:
            self.train(was_training)
        return [*found, int(counter.complexity)]


class ResNetChain(Chain):
    """Our plain residual network with a tap behind every block."""

    def __init__(
        self, depth: int, layout: Literal["cifar", "imagenet"], num_classes: int | Literal["auto"]
    ) -> None:
        super().__init__()
        self.net = ResNet(depth=depth, layout=layout, num_classes=num_classes)
        self.image_shape, self.classes = self.net.image_shape, self.net.classes
        self.taps = tuple(Tap(place.name, place.outputs) for place in self.net.places)
        if (layout, depth) == ("cifar", 56):
            self.flags = (3, 7, 11, 15, 19, 23)

    def run(self, images: Tensor, visit: Visit) -> Tensor | None:
        net = self.net
        x = net.stem(images)
        for index, place in enumerate(net.places):
            x = net.get_submodule(place.layer)(x, net.shortcut(place, x))
            if visit(index, x):
                return None
        return net.head(x)
