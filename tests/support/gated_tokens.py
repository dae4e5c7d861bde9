"""Small token networks with random weights whose gates vary, for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from bench.evaluation.outputs import freeze
from targets.avit import AViT
from targets.dynamicvit import DynamicViT, FixedTokens


def halting(seed: int = 0, **parameters: object) -> AViT:
    """An A-ViT of six blocks of which most tokens halt in some block."""
    target = loud(lambda: AViT(**{"gate_scale": 4.0, "gate_center": 3.0, **parameters}), seed)
    with torch.no_grad():
        target.net.cls_token[..., 0] = 1.5  # so that the class token halts on some images
    return target


def dropping(seed: int = 0, **parameters: object) -> DynamicViT:
    """A DynamicViT of six blocks that drops some tokens at every stage."""
    target = loud(lambda: DynamicViT(**parameters), seed)
    with torch.no_grad():
        for predictor in target.score_predictor:
            predictor.out_conv[4].weight.mul_(8)
            predictor.out_conv[4].bias[0] = 0.5
    return target


def fixed(seed: int = 0, **parameters: object) -> FixedTokens:
    """The same with a fixed number of tokens."""
    return loud(lambda: FixedTokens(**parameters), seed)


def loud(make: Callable[[], Any], seed: int) -> Any:
    """What `make` makes, frozen, with random weights large enough to tell tokens apart."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        target = make()
        for module in target.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, module.in_features**-0.5)
                nn.init.zeros_(module.bias)
        nn.init.normal_(target.net.pos_embed, 0, 0.5)
    freeze(target)
    return target
