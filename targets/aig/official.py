"""Checkpoints of the authors' ConvNet-AIG code (BSD 3-clause), translated into the names used here.

Blocks are layerG.I with their own projection (`shortcut`) and gate (`fc1`, `fc1bn`, `fc2`), the
last layer is `linear`. Old frameworks saved no `num_batches_tracked`. How gates decide is no part
of a state: `gating` is set by whoever imports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from targets.pieces.matching import matching_state, plain_state
from targets.resnet.official import recognize_layers, rename_layers

_PIECES = {"shortcut": "ds", "fc1": "gate.fc1", "fc1bn": "gate.fc1bn", "fc2": "gate.fc2"}


def translate(state: Mapping[str, Any], build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """The state of `build(depth=…, gating=…, layout=…, num_classes=…)` from an official one.

    Args:
        state: name -> tensor, or the wrapper dictionary with `state_dict`.
        build: the class whose names and shapes are to be met; only ever built on the meta device.

    Raises:
        WeightsError: listing every missing, unexpected or misshapen entry.
    """
    plain = plain_state(state)
    parameters = recognize_layers(plain, "linear", "ConvNet-AIG")
    ours = rename_layers(plain, "linear", _PIECES)
    return matching_state(ours, build, parameters, "ConvNet-AIG", [])
