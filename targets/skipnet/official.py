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
from targets.pieces.matching import listing, matching_state
from targets.resnet.blocks import IMAGENET_COUNTS

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
    inner = state.get("state_dict", state)
    if not isinstance(inner, Mapping):
        raise WeightsError(
            f"'state_dict' holds a {type(inner).__name__}, not a mapping of names to tensors"
        )
    plain = {str(name).removeprefix("module."): value for name, value in inner.items()}
    problems = [
        f"not a tensor: {name} ({type(value).__name__})"
        for name, value in plain.items()
        if not isinstance(value, Tensor)
    ]
    if problems:
        raise WeightsError(listing(problems))
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
    common = {"gate": gate, "num_classes": int(head.shape[0])}
    if max(counts) <= 3:
        return {"depth": 6 * max(counts.values()) + 2, "layout": "cifar", **common}
    deep = any(".conv3." in name for name in state)
    candidates = {depth: known for depth, known in IMAGENET_COUNTS.items() if (depth >= 50) == deep}
    depth = min(
        candidates,
        key=lambda depth: sum(
            abs(known - counts.get(g, 0)) for g, known in enumerate(candidates[depth], 1)
        ),
    )
    return {"depth": depth, "layout": "imagenet", **common}


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
