"""Any timm classifier as it is, with the data configuration that timm has for it."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

import timm
import timm.data
import torch
from torch import Tensor, nn

from bench.errors import PlanError

OURS = ("resnet-20", "resnet-38", "resnet-56", "vgg-16-bn")
"""Some of our own backbones, for messages."""


@dataclass(frozen=True)
class TimmNetwork:
    """A timm network with random weights, and how it takes images.

    Attributes:
        net: the network.
        classes: K.
        image_shape: (C, H, W).
        mean: (C, 1, 1), of images in [0,1].
        std: (C, 1, 1).
    """

    net: nn.Module
    classes: int
    image_shape: tuple[int, int, int]
    mean: Tensor
    std: Tensor


def timm_network(name: str, num_classes: int | Literal["auto"]) -> TimmNetwork:
    """The timm model of that name; weights are never downloaded.

    Args:
        name: as in `timm.list_models()`.
        num_classes: "auto" is 1000.

    Raises:
        PlanError: timm knows no such model (naming the nearest), or there are too few classes.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, [*OURS, *timm.list_models()], 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise PlanError(
            f'backbone = "{name}": neither resnet-DEPTH, nor vgg-16-bn, nor a model that timm '
            f"knows{hint}"
        )
    classes = 1000 if num_classes == "auto" else num_classes
    if classes < 2:
        raise PlanError(f"num_classes = {classes}: a confidence needs at least 2")
    net: nn.Module = timm.create_model(name, pretrained=False, num_classes=classes)
    config = timm.data.resolve_data_config({}, model=net)
    return TimmNetwork(
        net,
        classes,
        tuple(config["input_size"]),
        torch.tensor(config["mean"]).view(-1, 1, 1),
        torch.tensor(config["std"]).view(-1, 1, 1),
    )
