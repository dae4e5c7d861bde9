"""Released residual networks: which depth a state has, and torchvision-like names in ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from bench.errors import WeightsError
from targets.pieces.matching import renamed
from targets.resnet.blocks import IMAGENET_COUNTS

_LAYER = re.compile(r"layer(\d+)\.(\d+)\.(.+)")


def depth_of(counts: Mapping[int, int], *, deep: bool) -> dict[str, Any]:
    """depth and layout of the residual network that has most nearly these blocks.

    Args:
        counts: group, from 1 -> its blocks.
        deep: whether they are bottlenecks.
    """
    if max(counts) <= 3:
        return {"depth": 6 * max(counts.values()) + 2, "layout": "cifar"}
    candidates = {depth: known for depth, known in IMAGENET_COUNTS.items() if (depth >= 50) == deep}
    depth = min(
        candidates,
        key=lambda depth: sum(
            abs(known - counts.get(g, 0)) for g, known in enumerate(candidates[depth], 1)
        ),
    )
    return {"depth": depth, "layout": "imagenet"}


def recognize_layers(state: Mapping[str, Tensor], head: str, network: str) -> dict[str, Any]:
    """depth, layout and num_classes of a state in names such as layer1.0.conv1.weight.

    Args:
        state: name -> tensor.
        head: the name of the last layer.
        network: whose, for messages.

    Raises:
        WeightsError: there are no such names, or no last layer.
    """
    counts: dict[int, int] = {}
    for match in filter(None, map(_LAYER.fullmatch, state)):
        group, index = int(match[1]), int(match[2])
        counts[group] = max(counts.get(group, 0), index + 1)
    last = state.get(f"{head}.weight")
    if not counts or last is None or last.ndim != 2:
        some = ", ".join(list(state)[:4]) or "nothing"
        raise WeightsError(
            f"this is no {network} checkpoint: it has no layerG.I and {head}.weight entries, but "
            f"{some} …"
        )
    deep = any(".conv3." in name for name in state)
    return {**depth_of(counts, deep=deep), "num_classes": int(last.shape[0])}


def rename_layers(
    state: Mapping[str, Tensor], head: str, pieces: Mapping[str, str]
) -> dict[str, Tensor]:
    """The same tensors under the names of `Backbone`.

    Args:
        state: name -> tensor.
        head: the name of the last layer, here "fc".
        pieces: what a part of a block is called -> "ds" or "gate", with what follows in it; all
            else belongs to the block itself.

    Raises:
        WeightsError: two tensors that differ would have one name.
    """
    return renamed(state, lambda name: _own_name(name, head, pieces))


def _own_name(name: str, head: str, pieces: Mapping[str, str]) -> str:
    if name.startswith(f"{head}."):
        return f"fc.{name.removeprefix(f'{head}.')}"
    match = _LAYER.fullmatch(name)
    if match is None:
        return name
    group, index, rest = match.groups()
    for piece, ours in pieces.items():
        if rest.startswith(f"{piece}."):
            kind, _, inside = ours.partition(".")
            own = f"{inside}." if inside else ""
            return f"group{group}_{kind}{index}.{own}{rest.removeprefix(f'{piece}.')}"
    return f"group{group}_layer{index}.{rest}"
