"""Checkpoints of the authors' DynConv code (classification, MIT), translated into the names used
here.

Blocks are layerG.I with their own projection (`downsample`) and mask unit (`masker.maskconv`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from targets.pieces.matching import matching_state, plain_state
from targets.resnet.official import recognize_layers, rename_layers

_MASKS = "masker.maskconv"
_PIECES = {"downsample": "ds", _MASKS: "gate"}


def translate(state: Mapping[str, Any], build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """The state of `build(depth=…, masks=…, layout=…, num_classes=…)` from an official one.

    Args:
        state: name -> tensor, or the wrapper dictionary with `state_dict`; with or without mask
            units.
        build: the class whose names and shapes are to be met; only ever built on the meta device.

    Raises:
        WeightsError: listing every missing, unexpected or misshapen entry.
    """
    plain = plain_state(state)
    parameters = recognize_layers(plain, "fc", "DynConv")
    parameters["masks"] = "spatial" if any(f".{_MASKS}." in name for name in plain) else "none"
    ours = rename_layers(plain, "fc", _PIECES)
    return matching_state(ours, build, parameters, "DynConv", [])
