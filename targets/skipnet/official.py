"""Checkpoints of the authors' SkipNet code, translated into the names used here.

Four things differ: a `module.` prefix; projections stored twice (`groupG_ds0` and
`groupG_layer0.downsample`), one and the same module; no `num_batches_tracked` (PyTorch 0.2 had
none); and an ImageNet gate projection of shape [1,10,1,1].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import WeightsError
from targets.pieces.matching import matching_state, plain_state
from targets.resnet.official import depth_of

_COPY = re.compile(r"(group\d+)_layer(\d+)\.downsample\.(.+)")
_LAYER = re.compile(r"group(\d+)_layer(\d+)\.")


def translate(state: Mapping[str, Any], build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """The state of `build(depth=…, gate=…, layout=…, num_classes=…)` from an official one.

    Args:
        state: name -> tensor, or the wrapper dictionary with `state_dict` that the authors' code
            saves.
        build: the class whose names and shapes are to be met; only ever built on the meta device.

    Raises:
        WeightsError: listing every missing, unexpected or misshapen entry.
    """
    plain = plain_state(state)
    parameters = recognise(plain)
    ours, problems = _merge_copies(plain)
    if parameters["gate"] == "rnn" and "control.proj.weight" in ours:
        projection = ours["control.proj.weight"]
        ours["control.proj.weight"] = (
            projection.flatten(1) if projection.shape[2:] == (1, 1) else projection
        )
    return matching_state(ours, build, parameters, "SkipNet", problems)


def recognise(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The parameters (depth, gate, layout, num_classes) of the SkipNet that these names and shapes
    resemble most.

    Raises:
        WeightsError: when this is not SkipNet's layout at all.
    """
    counts: dict[int, int] = {}
    for match in filter(None, map(_LAYER.match, state)):
        group, index = map(int, match.groups())
        counts[group] = max(counts.get(group, 0), index + 1)
    head = state.get("fc.weight")
    if not counts or head is None or head.ndim != 2:
        some = ", ".join(list(state)[:4]) or "nothing"
        raise WeightsError(
            "this is no SkipNet checkpoint: it has no groupG_layerI and fc.weight entries, but "
            f"{some} …"
        )
    if any(name.startswith("control.") for name in state):
        gate = "rnn"
    else:
        gate = "ff1" if any(re.match(r"group\d+_gate\d+\.conv2", name) for name in state) else "ff2"
    deep = any(".conv3." in name for name in state)
    return {**depth_of(counts, deep=deep), "gate": gate, "num_classes": int(head.shape[0])}


def _merge_copies(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Each projection once, as `groupG_ds0`; a problem for each pair of copies that disagree."""
    merged = {name: value for name, value in state.items() if not _COPY.fullmatch(name)}
    problems = []
    for name, value in state.items():
        match = _COPY.fullmatch(name)
        if match is None:
            continue
        group, index, rest = match.groups()
        kept = merged.setdefault(f"{group}_ds{index}.{rest}", value)
        if kept.shape != value.shape or not torch.equal(kept, value):
            problems.append(
                f"contradictory: {name} and {group}_ds{index}.{rest} are one module, but differ"
            )
    return merged, problems
