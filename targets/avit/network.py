"""A-ViT: a vision transformer whose tokens halt one by one, the class token among them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.api import Output, Units
from bench.errors import PlanError
from targets.avit.halting import Decide, HaltedTokens, halt
from targets.pieces.counting import require_one
from targets.pieces.gate_threshold import require_gate_threshold
from targets.pieces.matching import matching_state
from targets.vit import TransformerBackbone
from targets.vit.official import recognize_transformer, timm_names


class AViT(TransformerBackbone):
    """A vision transformer in which each token halts once its scores add up to one (A-ViT: adaptive
    tokens).

    Args:
        backbone: "vit-WIDTHxDEPTH" for 32x32 images with 8x8 patch tokens, or 4x4 with "-p8"
            behind it; or any plain vision transformer of timm ("deit_tiny_patch16_224").
        gate_scale: gamma of the score.
        gate_center: beta of the score.
        stop: "tokens" as published, every token by its own scores; "class" stops all of them where
            the class token halts, whose answer no later block can change.
        num_classes: "auto" is 10, and 1000 for models of timm.
        threshold: t, the sum of scores from which on a token is halted; smaller ones save more.
            Trained, and published, at 0.99.

    Behind block l a token's score is h_l = sigmoid(gamma x_l[0] - beta), x_l[0] the first channel
    of its state. It runs block l + 1 iff h_1 + … + h_l < t, and leaves attention, as query
    and as key, where it does not. All tokens run the first block. With N the last block that the
    class token runs, the head reads norm(sum_{l<N} h_l x_l + (1 - sum_{l<N} h_l) x_N) of the class
    token alone.

    Unit: a token in a block behind the first; its margin is t less the sum so far, which stands
    still once the token has halted, and it comes after the same token one block earlier. The class
    token's units are of kind "class token". Forced decisions set N, the formula stays. Halting has
    no mask with a gradient of its own; `mask_grad` makes no difference. With stop = "class" the
    margin is the smaller one of the token's and the class token's.

    The released code removes no token: it masks them as keys, zeroes their states behind autograd's
    back, and counts what would have been saved. Its comparisons are both strict, so a sum of
    exactly t is in neither case; here it halts. A released state has timm's names
    (`gatebench weights import FILE --target avit:deit-tiny`).

    Source: Yin et al., A-ViT: Adaptive Tokens for Efficient Vision Transformer, CVPR 2022, section
    3.
    """

    follows = "Yin et al., A-ViT: Adaptive Tokens for Efficient Vision Transformer, CVPR 2022"
    unit = "a token in a transformer block behind the first"
    skipped = "halted tokens: their rows of every layer, and them as keys of the others"
    forks = True
    admits = True
    unkeyed_defaults: ClassVar[tuple[str, ...]] = ("threshold",)
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"threshold": (0, 1)}
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deit-tiny": {
            "backbone": "deit_tiny_patch16_224",
            "gate_scale": 10.0,
            "gate_center": 30.0,
        },
        "deit-small": {
            "backbone": "deit_small_patch16_224",
            "gate_scale": 10.0,
            "gate_center": 75.0,
        },
    }

    def __init__(
        self,
        *,
        backbone: str = "vit-32x6",
        gate_scale: float = 5.0,
        gate_center: float = 5.0,
        stop: Literal["tokens", "class"] = "tokens",
        num_classes: int | Literal["auto"] = "auto",
        threshold: float = 0.99,
    ) -> None:
        if not gate_scale > 0:
            raise PlanError(f"gate_scale = {gate_scale}: above 0")
        super().__init__(backbone, num_classes)
        self.threshold = require_gate_threshold(threshold)
        self.gate_scale, self.gate_center, self.stop = gate_scale, gate_center, stop
        if self.depth < 2:
            raise PlanError(f'backbone = "{backbone}": halting needs two blocks, it has one')
        with torch.device("cpu"):
            self.units = self._table()
            self._always = self.outer_macs() + int(self.block_macs(torch.tensor(self.tokens)))

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This class's state from a released one: a transformer's, in timm's names.

        Raises:
            WeightsError: listing every missing, unexpected or misshapen entry.
        """
        parameters = recognize_transformer(state, "A-ViT")
        return matching_state(timm_names(state), cls, parameters, "A-ViT", [])

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, 3, H, W) in [0,1]; all tokens are computed, halted ones keep their
        state."""
        return self._output(self.walk(images, decisions))

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image (1, 3, H, W); halted tokens are left out."""
        require_one(image)
        run = halt(
            self.embed(image),
            self.depth,
            self.threshold,
            self.block_where,
            lambda block, x: (x, self._score(x)),
            self._rule(decisions),
            self.classify,
            with_class=self.stop == "class",
        )
        return self._output(run)

    def walk(self, images: Tensor, decisions: Tensor | None = None) -> HaltedTokens:
        """How the tokens of N images halt; the recipe takes its losses from there."""
        return halt(
            self.embed(images),
            self.depth,
            self.threshold,
            self.block_everywhere,
            self._score_through_fork,
            self._rule(decisions),
            self.classify,
            with_class=self.stop == "class",
        )

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: stem, first block and head, and each further block by its number of
        tokens."""
        counts = decisions.view(len(decisions), self.depth - 1, self.tokens).sum(2)
        return self._always + self.block_macs(counts).sum(1)

    def _score(self, x: Tensor) -> Tensor:
        """(N, T) scores of tokens (N, T, D); always in float32 or better, autocast or not."""
        first = x[:, :, 0] if x.dtype == torch.float64 else x[:, :, 0].float()
        return (self.gate_scale * first - self.gate_center).sigmoid()

    def _score_through_fork(self, block: int, x: Tensor) -> tuple[Tensor, Tensor]:
        x, read = self.fork(x, block * self.tokens)
        return x, self._score(read)

    def _rule(self, decisions: Tensor | None) -> Decide:
        if decisions is None:

            def rule(block: int, margins: Tensor, active: Tensor) -> Tensor:
                wanted = active & (margins.detach() > 0)
                return self.admit(block * self.tokens, margins.detach(), wanted)

            return rule
        forced = decisions.view(len(decisions), self.depth - 1, self.tokens)
        return lambda block, margins, active: active & forced[:, block].to(active.device)

    def _output(self, run: HaltedTokens) -> Output:
        margins = run.margins.flatten(1)
        return Output(run.logits, margins, margins, run.active.flatten(1))

    def _table(self) -> Units:
        """The units, block by block: the class token, then the map of patch tokens."""
        height, width = self.grid
        places = ["class", *(f"y{at // width}x{at % width}" for at in range(height * width))]
        blocks = range(2, self.depth + 1)
        total = (self.depth - 1) * self.tokens
        column = torch.ones(total, dtype=torch.float64)
        return Units(
            name=tuple(f"block{block}.{place}" for block in blocks for place in places),
            kind=("class token", *("token",) * (self.tokens - 1)) * (self.depth - 1),
            owner=tuple(
                owner
                for block in blocks
                for owner in (
                    f"block{block}.class",
                    *(f"block{block}.patches",) * (self.tokens - 1),
                )
            ),
            shape=((), *((height, width),) * (self.tokens - 1)) * (self.depth - 1),
            cost=torch.full((total,), self.token_macs(), dtype=torch.int64),
            threshold=column * 0,
            low=column * -math.inf,
            high=column * self.threshold,
            strict=torch.ones(total, dtype=torch.bool),
            after=(torch.arange(total) - self.tokens).clamp(min=-1),
        )
