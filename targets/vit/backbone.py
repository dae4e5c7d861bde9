"""What all targets over a vision transformer share: tokens, blocks that leave some out, head,
cost."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.api import Target
from bench.errors import PlanError
from targets.pieces.counting import macs_of
from targets.vit.transformer import build_transformer, normalization, run_block


class TransformerBackbone(Target):
    """A timm vision transformer, evaluated block by block on the tokens that are left.

    Args:
        backbone: "vit-WIDTHxDEPTH" for 32x32 images (a convolutional stem, 8x8 patch tokens and a
            class token), "vit-WIDTHxDEPTH-p8" with 4x4; or any plain vision transformer of timm
            with a class token ("deit_tiny_patch16_224").
        num_classes: "auto" is 10, and 1000 for models of timm.

    Attributes:
        net: the network of timm; its tensors have timm's names behind "net.".
        depth: blocks.
        grid: (height, width) of the map of patch tokens.
        tokens: T, the class token first, then the patch tokens row by row.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, num_classes: int | Literal["auto"]) -> None:
        super().__init__()
        if num_classes == "auto":
            num_classes = 10 if backbone.startswith("vit-") else 1000
        if num_classes < 1:
            raise PlanError(f'num_classes = {num_classes}: at least 1, or "auto"')
        self.classes = num_classes
        self.net = build_transformer(backbone, num_classes)
        mean, std, side = normalization(backbone, self.net)
        self.image_shape = (3, side, side)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)
        self.depth = len(self.net.blocks)
        self.grid: tuple[int, int] = tuple(self.net.patch_embed.grid_size)
        self.tokens = 1 + self.grid[0] * self.grid[1]

    @property
    def width(self) -> int:
        """D, channels of a token."""
        return int(self.net.embed_dim)

    def embed(self, images: Tensor) -> Tensor:
        """(N, T, D) tokens in front of the first block, from images (N, 3, H, W) in [0,1]."""
        net: Any = self.net
        patches = net.patch_embed((images - self.mean) / self.std)
        x = torch.cat([net.cls_token.expand(len(images), -1, -1), patches], 1)
        out: Tensor = net.norm_pre(net.pos_drop(x + net.pos_embed))
        return out

    def block(
        self, index: int, x: Tensor, keep: Tensor | None = None, policy: Tensor | None = None
    ) -> Tensor:
        """Tokens behind block `index`; see `targets.vit.transformer.run_block`."""
        return run_block(self.net.blocks[index], x, keep, policy)

    def block_everywhere(
        self, index: int, x: Tensor, keep: Tensor, policy: Tensor | None = None
    ) -> Tensor:
        """(N, T, D) tokens behind block `index`: computed for all, dropped ones keep their state.

        Args:
            index: of the block.
            x: (N, T, D).
            keep: (N, T) bool, the tokens that run it.
            policy: as in `run_block`.
        """
        return torch.where(keep[:, :, None], self.block(index, x, keep, policy), x)

    def block_where(self, index: int, x: Tensor, keep: Tensor) -> Tensor:
        """The same for one image (1, T, D): only the kept tokens go through the block."""
        where = keep[0].nonzero().squeeze(1)
        if len(where) == x.shape[1]:
            return self.block(index, x)
        if not len(where):
            return x
        return x.index_copy(1, where, self.block(index, x.index_select(1, where)))

    def classify(self, x: Tensor) -> Tensor:
        """(N, K) logits from the class token's (N, D) state."""
        net: Any = self.net
        logits: Tensor = net.head(net.head_drop(net.fc_norm(net.norm(x))))
        return logits

    def outer_macs(self) -> int:
        """MACs of stem and head."""
        embedding = macs_of(self.net.patch_embed, self.image_shape)
        return embedding + macs_of(self.net.head, (self.width,))

    def block_macs(self, counts: Tensor) -> Tensor:
        """MACs of a block that so many tokens run; int64 of the shape of `counts`.

        Linear layers multiply every token by their weights and add their biases; scores and
        mixtures take n^2 products of the attention's width each.
        """
        block: Any = self.net.blocks[0]
        linear: int = sum(
            layer.weight.numel() + (0 if layer.bias is None else layer.bias.numel())
            for layer in block.modules()
            if isinstance(layer, nn.Linear)
        )
        inner: int = block.attn.qkv.out_features // 3
        return counts * linear + 2 * inner * counts * counts

    def token_macs(self) -> int:
        """MACs of one token in a block in which all tokens run."""
        return int(self.block_macs(torch.tensor(self.tokens))) // self.tokens
