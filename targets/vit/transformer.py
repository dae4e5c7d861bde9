"""The timm vision transformers that tokens can be dropped from: small ones of our own, and any
plain one that timm knows by name."""

from __future__ import annotations

import re
from difflib import get_close_matches
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import PlanError

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

SMALL = re.compile(r"vit-([1-9]\d{0,3})x([1-9]\d?)(-p8)?")
"""The name of a small transformer: "vit-WIDTHxDEPTH", "vit-WIDTHxDEPTH-p8" with fewer tokens."""
HEAD_WIDTH = 16
"""Channels of an attention head of a small transformer."""
HIDDEN = 2
"""Width of a small transformer's MLP over that of its tokens, as in compact transformers (Hassani
et al., Escaping the Big Data Paradigm with Compact Transformers, 2021)."""
SIDE = 32
"""Height and width of a small transformer's image."""
PATCHES = {"": 4, "-p8": 8}
"""End of a small transformer's name -> pixels of an image side that one token stands for."""
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class ConvStem(nn.Module):
    """3x3 convolutions at stride 2 and a 1x1 one: 8x8 or 4x4 tokens from a 32x32 image.

    Convolutions in place of large patches make small transformers train in few epochs (Xiao et
    al., Early Convolutions Help Transformers See Better, NeurIPS 2021, section 3).

    Args:
        img_size: of the image.
        patch_size: pixels of an image side that a token stands for, 4 or 8.
        in_chans: channels of the image.
        embed_dim: width of a token.
        unused: what timm hands to every embedding besides.
    """

    def __init__(
        self,
        *,
        img_size: int = SIDE,
        patch_size: int = 4,
        in_chans: int = 3,
        embed_dim: int = 32,
        **unused: Any,
    ) -> None:
        super().__init__()
        self.grid_size = (img_size // patch_size, img_size // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        widths = [embed_dim // 2, embed_dim]
        if patch_size == 8:
            widths = [16, 32, embed_dim]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([in_chans, *widths]):
            layers += [
                nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers, nn.Conv2d(embed_dim, embed_dim, 1))

    def forward(self, images: Tensor) -> Tensor:
        """(N, T, D) tokens of normalized images (N, C, H, W)."""
        features: Tensor = self.layers(images)
        return features.flatten(2).transpose(1, 2)


def build_transformer(name: str, num_classes: int) -> VisionTransformer:
    """A plain vision transformer with a class token, with fresh weights.

    Args:
        name: "vit-WIDTHxDEPTH", a small one for 32x32 images with 8x8 patch tokens, or 4x4 with
            "-p8" behind it; or a model of timm, such as "deit_tiny_patch16_224", whose weights are
            never downloaded.
        num_classes: K.

    Raises:
        PlanError: there is none of that name, or it is no plain vision transformer.
    """
    import timm
    from timm.models.vision_transformer import VisionTransformer

    small = SMALL.fullmatch(name)
    if small is not None:
        return _small(int(small[1]), int(small[2]), PATCHES[small[3] or ""], num_classes)
    if not timm.is_model(name):
        near = get_close_matches(name, ["vit-32x6", *timm.list_models("*deit*"), "vit-64x6"], 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise PlanError(
            f'backbone = "{name}": neither vit-WIDTHxDEPTH, such as vit-32x6, nor a model that '
            f"timm knows{hint}"
        )
    net = timm.create_model(name, pretrained=False, num_classes=num_classes)
    if not isinstance(net, VisionTransformer):
        raise PlanError(
            f'backbone = "{name}": a {type(net).__name__}, no VisionTransformer of timm; '
            "deit_tiny_patch16_224 is one"
        )
    check_plain(name, net)
    return net


def check_plain(name: str, net: VisionTransformer) -> None:
    """Refuse transformers whose blocks or head are not those that are evaluated here.

    Raises:
        PlanError: saying what is different.
    """
    from timm.models.vision_transformer import Block

    different = [
        (net.cls_token is None or net.num_prefix_tokens != 1, "it has not exactly one class token"),
        (net.global_pool != "token", f"it pools its tokens ({net.global_pool})"),
        (bool(getattr(net, "no_embed_class", False)), "its class token has no position"),
        (bool(getattr(net, "dynamic_img_size", False)), "its image size varies"),
        (any(type(block) is not Block for block in net.blocks), "its blocks are no plain blocks"),
        (
            any(
                getattr(block.attn, "gate", None) is not None
                or not isinstance(getattr(block.attn, "norm", nn.Identity()), nn.Identity)
                or not isinstance(getattr(block.attn, "qkv", None), nn.Linear)
                for block in net.blocks
            ),
            "its attention is gated, normalized or without a joint projection",
        ),
        (not isinstance(net.head, nn.Linear), "it has no linear head"),
    ]
    for is_different, what in different:
        if is_different:
            raise PlanError(
                f'backbone = "{name}": {what}; deit_tiny_patch16_224 and vit_tiny_patch16_224 are '
                "plain"
            )


def normalization(name: str, net: nn.Module) -> tuple[tuple[float, ...], tuple[float, ...], int]:
    """(mean, deviation, height and width in pixels) of the images that a transformer takes.

    Args:
        name: as in `build_transformer`.
        net: of that name.
    """
    if SMALL.fullmatch(name):
        return CIFAR_MEAN, CIFAR_STD, SIDE
    import timm.data

    config = timm.data.resolve_data_config({}, model=net)
    return tuple(config["mean"]), tuple(config["std"]), int(config["input_size"][1])


def run_block(block: nn.Module, x: Tensor, keep: Tensor | None, policy: Tensor | None) -> Tensor:
    """(N, T, D) tokens behind one block of timm, of which some are no keys.

    Args:
        block: a `timm.models.vision_transformer.Block`.
        x: (N, T, D).
        keep: (N, T) bool, the tokens that the others attend to; all where None. What comes out
            for the others means nothing.
        policy: (N, T), 1 for kept tokens and 0 for others, with a gradient: a straight-through
            mask. It changes no value; None where masks have no gradient.
    """
    part: Any = block
    attended = _attention(part.attn, part.norm1(x), keep, policy)
    x = x + part.drop_path1(part.ls1(attended))
    out: Tensor = x + part.drop_path2(part.ls2(part.mlp(part.norm2(x))))
    return out


def _attention(attn: Any, x: Tensor, keep: Tensor | None, policy: Tensor | None) -> Tensor:
    """Self-attention of timm, in matrix products that every counter sees."""
    count, tokens, _ = x.shape
    split = attn.qkv(x).reshape(count, tokens, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = split.unbind(0)
    scores = (attn.q_norm(query) * attn.scale) @ attn.k_norm(key).transpose(-2, -1)
    weights = attn.attn_drop(_weights(scores, keep, policy)).to(value.dtype)
    mixed = (weights @ value).transpose(1, 2).reshape(count, tokens, -1)
    out: Tensor = attn.proj_drop(attn.proj(mixed))
    return out


def _weights(scores: Tensor, keep: Tensor | None, policy: Tensor | None) -> Tensor:
    """(N, heads, T, T) softmax of scores over the kept keys; uniform where none is kept.

    With a policy p, w_j = p_j exp(s_j) / sum_k p_k exp(s_k), so that a closed token has the
    gradient of what it would contribute (Rao et al., DynamicViT, NeurIPS 2021, equation 11).
    """
    if keep is None:
        return scores.softmax(-1)
    closed = ~keep[:, None, None, :]
    masked = scores.masked_fill(closed, torch.finfo(scores.dtype).min)
    if policy is None:
        return masked.softmax(-1)
    highest = masked.detach().amax(-1, keepdim=True)
    raised = (scores - highest).clamp(max=_HIGHEST).exp() * policy[:, None, None, :]
    return raised / raised.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


_HIGHEST = 20.0
"""The largest difference of a closed token's score from the kept ones' that a gradient is taken
of."""


def _small(width: int, depth: int, patch: int, num_classes: int) -> VisionTransformer:
    from timm.models.vision_transformer import VisionTransformer

    if width % HEAD_WIDTH:
        below = max(HEAD_WIDTH, width // HEAD_WIDTH * HEAD_WIDTH)
        raise PlanError(
            f'backbone = "vit-{width}x{depth}": the width is a multiple of {HEAD_WIDTH}; did you '
            f"mean vit-{below}x{depth} or vit-{below + HEAD_WIDTH}x{depth}?"
        )
    net = VisionTransformer(
        img_size=SIDE,
        patch_size=patch,
        num_classes=num_classes,
        embed_dim=width,
        depth=depth,
        num_heads=width // HEAD_WIDTH,
        mlp_ratio=HIDDEN,
        embed_layer=ConvStem,
    )
    for layer in net.modules():  # timm's deviation of 0.02 is that of wide tokens
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
    return net
