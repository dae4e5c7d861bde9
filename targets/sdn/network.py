"""SDN: a network with exits on the way, left at the first one that is sure enough."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.api import Output
from targets.pieces.confidence import confidence
from targets.pieces.counting import macs_of, require_one
from targets.pieces.sure_chain import SureChain
from targets.sdn.chains import Chain, ResNetChain
from targets.sdn.exits import InternalClassifier

SHARES = (0.15, 0.30, 0.45, 0.60, 0.75, 0.90)
"""Where the six exits of SDN are meant to sit, as shares of the backbone's cost."""


class SDN(SureChain):
    """A multi-exit network that stops at the first exit that is sure enough (Shallow-Deep Network;
    DeepSloth's victim).

    Args:
        backbone: "resnet-20" and other cifar depths, "vgg-16-bn", a vision transformer as in `ViT`
            ("vit-32x6-p8", "deit_tiny_patch16_224"), or any timm model with feature stages
            ("resnet18").
        exits: "six" at 15 to 90 % of the cost, where SDN's code puts them for vgg-16-bn and
            resnet-56; "all" behind every layer, as DeepSloth has them; "none" is the plain
            backbone. On timm models both are one behind each feature stage but the last, on
            transformers behind each block but the last, at the class token.
        otherwise: what an image gets that no exit takes: "final" is the last output (DeepSloth),
            "confident" the most confident of all (SDN's code). The cost is the same.
        threshold: T in (0, 1), the confidence from which on an exit is taken; "weights" is what the
            recipe chose.
        num_classes: "auto" is 10, and 1000 for timm models.

    Unit k is what lies behind exit k: it runs when max softmax of exit k < T (and all exits before
    it went on). Gate value G = 1 - max softmax, threshold 1 - T, strict. The logit margin is log(T
    / (1 - T)) less the log-odds of the most likely class: the same zero set, and a gradient where
    softmax has none left.

    `forward` computes all exits. `execute` stops; the margins of exits it did not reach are T - 1
    (as if those exits were sure), and `exits` repeats the logits of the one it took.

    Source: Kaya et al., Shallow-Deep Networks: Understanding and Mitigating Network Overthinking,
    ICML 2019; Hong et al.,
    DeepSloth, ICLR 2021.
    """

    follows = (
        "Kaya et al., Shallow-Deep Networks, ICML 2019, and Hong et al., A Panda? No, It's a Sloth "
        "(DeepSloth), ICLR 2021"
    )
    unit = "what lies behind an exit, up to and with the next one"
    skipped = "everything behind the exit that is taken, later exits included"
    admits = True
    plan_check = "targets.pieces.plan_checks:check_backbone"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "resnet-56": {"backbone": "resnet-56"},
        "resnet-56-all": {"backbone": "resnet-56", "exits": "all"},
        "vgg-16-bn": {"backbone": "vgg-16-bn"},
        "vgg-16-bn-all": {"backbone": "vgg-16-bn", "exits": "all"},
        "vit": {"backbone": "vit-32x6-p8", "exits": "all"},
        "deit-tiny": {"backbone": "deit_tiny_patch16_224", "exits": "all"},
        "deit-small": {"backbone": "deit_small_patch16_224", "exits": "all"},
    }

    def __init__(
        self,
        *,
        backbone: str = "resnet-20",
        exits: Literal["six", "all", "none"] = "six",
        otherwise: Literal["final", "confident"] = "final",
        threshold: float | Literal["weights"] = "weights",
        num_classes: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        self.backbone = chain_for(backbone, num_classes)
        self.image_shape, self.classes = self.backbone.image_shape, self.backbone.classes
        self.otherwise = otherwise
        on_the_way = self.backbone.macs_on_the_way()
        self.places = places_of(self.backbone, exits, on_the_way)
        taps = [self.backbone.taps[place] for place in self.places]
        self.heads = nn.ModuleList(InternalClassifier(tap.shape, self.classes) for tap in taps)
        heads = [macs_of(head, tap.shape) for head, tap in zip(self.heads, taps, strict=True)]
        prefix = _prefixes(on_the_way, self.places, heads)
        self.link(threshold, prefix, [f"behind {tap.name}" for tap in taps], "exit")

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate all exits of N images (N, C, H, W) in [0,1]."""
        found = self.all_exits(images)
        output = self.answer(found, decisions)
        if self.otherwise == "confident":
            none = output.decisions.all(1, keepdim=True)
            output = replace(output, logits=torch.where(none, self._surest(found), output.logits))
        return output

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, C, H, W) up to the exit that takes it."""
        require_one(image)
        found: list[Tensor] = []

        def visit(place: int, features: Tensor) -> bool:
            if place not in self.places:
                return False
            at = len(found)
            found.append(self.heads[at](features))
            return not self.goes_on(at, found[-1], decisions)

        last = self.backbone(image, visit)
        if last is None:
            return self.answer_of_one(found)
        output = self.answer_of_one([*found, last])
        if self.otherwise == "confident":
            output = replace(output, logits=self._surest(torch.stack([*found, last], 1)))
        return output

    def all_exits(self, images: Tensor) -> Tensor:
        """(N, E, K) logits of every exit, the last included."""
        found: list[Tensor] = []

        def visit(place: int, features: Tensor) -> bool:
            if place in self.places:
                found.append(self.heads[len(found)](features))
            return False

        last = self.backbone(images, visit)
        return (
            torch.stack([*found, last], 1).float()
            if images.dtype != torch.float64
            else torch.stack([*found, last], 1)
        )

    def pooled(self, images: Tensor) -> Tensor:
        """(N, D) what all exits pool from their features, one after the other, and the K logits of
        the last output: all that depends on the images while the backbone is frozen."""
        found: list[Tensor] = []

        def visit(place: int, features: Tensor) -> bool:
            if place in self.places:
                found.append(self._head(len(found)).pooled(features))
            return False

        last = self.backbone(images, visit)
        return torch.cat([*found, last], 1)

    def exits_from_pooled(self, pooled: Tensor) -> Tensor:
        """(N, E, K) logits of every exit from what `pooled` gives, the last output's included."""
        heads = [self._head(place) for place in range(len(self.heads))]
        *parts, last = pooled.split([*(head.width for head in heads), self.classes], 1)
        found = [head.from_pooled(part) for head, part in zip(heads, parts, strict=True)]
        return torch.stack([*found, last], 1)

    def _head(self, place: int) -> InternalClassifier:
        head = self.heads[place]
        assert isinstance(head, InternalClassifier)
        return head

    def _surest(self, exits: Tensor) -> Tensor:
        best = confidence(exits).argmax(1)
        return exits[torch.arange(len(exits), device=exits.device), best]


def chain_for(backbone: str, num_classes: int | Literal["auto"]) -> Chain:
    """The backbone of that name.

    Raises:
        PlanError: there is none, or it has no usable features; names the nearest.
    """
    family, _, depth = backbone.partition("-")
    if family == "resnet" and depth.isdigit():
        return ResNetChain(int(depth), "cifar", num_classes)
    if backbone == "vgg-16-bn":
        from targets.sdn.vgg import VGG16BN

        return VGG16BN(num_classes)
    from targets.sdn.vit_chain import TransformerChain, is_transformer

    if is_transformer(backbone):
        return TransformerChain(backbone, num_classes)
    from targets.sdn.timm_chain import TimmChain

    return TimmChain(backbone, num_classes)


def places_of(chain: Chain, exits: str, on_the_way: list[int]) -> tuple[int, ...]:
    """The taps that get an exit: SDN's own where its code says so, else those nearest to its shares
    of the cost."""
    every = tuple(range(len(chain.taps)))
    if exits == "none":
        return ()
    if exits == "all" or len(every) <= len(SHARES):
        return every
    if chain.flags is not None:
        return chain.flags
    total = on_the_way[-1]

    def nearest(share: float) -> int:
        return min(every, key=lambda place: abs(on_the_way[place] / total - share))

    return tuple(sorted({nearest(share) for share in SHARES}))


def _prefixes(on_the_way: list[int], places: tuple[int, ...], heads: list[int]) -> Tensor:
    """(E,) int64 MACs of leaving at each exit, the last included."""
    paid, found = 0, []
    for place, head in zip(places, heads, strict=True):
        paid += head
        found.append(on_the_way[place] + paid)
    with torch.device("cpu"):
        return torch.tensor([*found, on_the_way[-1] + paid], dtype=torch.int64)
