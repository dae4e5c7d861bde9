"""Released states of DynamicViT: a transformer in timm's names, and its predictors."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from targets.pieces.matching import matching_state
from targets.vit.official import recognize_transformer, timm_names

_PREDICTORS = "score_predictor."


def translate(state: Mapping[str, Tensor], build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """The state of `build(backbone=…, num_classes=…)` from a released one.

    Args:
        state: name -> tensor; predictors keep their names, the transformer has timm's.
        build: the class whose names and shapes are to be met; only ever built on the meta device.

    Raises:
        WeightsError: listing every missing, unexpected or misshapen entry.
    """
    net = {name: value for name, value in state.items() if not name.startswith(_PREDICTORS)}
    predictors = {name: value for name, value in state.items() if name.startswith(_PREDICTORS)}
    parameters = recognize_transformer(net, "DynamicViT")
    return matching_state({**timm_names(net), **predictors}, build, parameters, "DynamicViT", [])
