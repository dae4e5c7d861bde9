"""The variables of the authors' TensorFlow code, exported by name, translated into the names used
here.

A scope of our own stands in front of every ImageNet name (`resnet_v2_101/…`, or whatever a script
called it); CIFAR has `resnet_residual` in front of stem and blocks and nothing in front of the last
normalization and the logits. Kernels are height x width x in x out. What training alone needs
(momenta, moving averages of variables, the step) is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from bench.errors import WeightsError
from targets.pieces.matching import matching_state, renamed
from targets.sact.blocks import IMAGENET_UNITS

_TRAINING = re.compile(
    r"(.*/)?(Momentum(_\d+)?|ExponentialMovingAverage|global_step|RMSProp(_\d+)?|Adam(_\d+)?)$"
)
_LEAVES = {
    "weights": "weight",
    "biases": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
_CIFAR_UNIT = re.compile(r"(?:.*/)?block_(\d+)/unit_(\d+)/(.+)")
_IMAGENET_UNIT = re.compile(r"(?:.*/)?block(\d+)/unit_(\d+)/(?:bottleneck_v2/)?(.+)")
_PIECES = {
    "residual/preact": "preact", "residual/conv1": "conv1", "residual/conv1/BatchNorm": "bn1",
    "residual/conv2": "conv2",
    "preact": "preact", "shortcut": "shortcut", "conv1": "conv1", "conv1/BatchNorm": "bn1",
    "conv2": "conv2", "conv2/BatchNorm": "bn2", "conv3": "conv3",
}  # fmt: skip
_OUTER = {
    "cifar": {"resnet_residual/Conv": "stem.conv", "BatchNorm": "bn", "logits": "fc"},
    "imagenet": {"conv1": "stem.conv", "postnorm": "bn", "logits": "fc"},
}


def translate(state: Mapping[str, Tensor], build: Callable[..., nn.Module]) -> dict[str, Tensor]:
    """The state of `build(depth=…, halting=…, layout=…, num_classes=…)` from the authors'
    variables.

    Args:
        state: variable name -> tensor, as `read_checkpoint` brings it from an .npz; a trailing ":0"
            is tolerated.
        build: the class whose names and shapes are to be met; only ever built on the meta device.

    Raises:
        WeightsError: listing every missing, unexpected or misshapen entry, or variables of two
            scopes that differ and have one name.
    """
    variables = renamed(state, lambda name: name.removesuffix(":0"))
    variables = {name: value for name, value in variables.items() if not _TRAINING.fullmatch(name)}
    parameters = recognise(variables)
    names = {name: _name(name, parameters["layout"]) for name in variables}
    problems = [
        f"unexpected: {name} {list(variables[name].shape)}"
        for name, found in names.items()
        if found is None
    ]
    known = {name: value for name, value in variables.items() if names[name] is not None}
    ours = {
        found: _turned(found, value)
        for found, value in renamed(known, lambda name: names[name] or "").items()
    }
    return matching_state(ours, build, parameters, "SACT", problems)


def recognise(variables: Mapping[str, Tensor]) -> dict[str, Any]:
    """depth, halting, layout and num_classes, from the names and the logits.

    Raises:
        WeightsError: there are no blocks and units among the names, or no logits.
    """
    cifar = [found for name in variables if (found := _CIFAR_UNIT.fullmatch(name))]
    imagenet = [found for name in variables if (found := _IMAGENET_UNIT.fullmatch(name))]
    units = cifar or imagenet
    logits = [value for name, value in variables.items() if name.endswith("logits/biases")]
    if not units or not logits:
        raise WeightsError(
            "no variables of SACT: names such as "
            "resnet_residual/block_1/unit_1/residual/conv1/weights and logits/biases are expected",
            hint=f"the file begins with {', '.join(sorted(variables)[:3]) or 'nothing'}",
        )
    counts: dict[int, int] = {}
    for found in units:
        block, unit = int(found[1]), int(found[2])
        counts[block] = max(counts.get(block, 0), unit)
    shape = tuple(counts[block] for block in sorted(counts))
    layout = "cifar" if cifar else "imagenet"
    depth = (
        6 * shape[0] + 2
        if cifar
        else next((known for known, wanted in IMAGENET_UNITS.items() if wanted == shape), 0)
    )
    if not depth or (cifar and shape != (shape[0],) * 3):
        raise WeightsError(f"blocks of {', '.join(map(str, shape))} units are no SACT network")
    halting = "sact" if any("/halting_proba/" in name for name in variables) else "none"
    return {"depth": depth, "halting": halting, "layout": layout, "num_classes": logits[0].numel()}


def _name(name: str, layout: str) -> str | None:
    """Our name of a variable, None if it has none."""
    path, _, leaf = name.rpartition("/")
    if leaf not in _LEAVES:
        return None
    found = (_CIFAR_UNIT if layout == "cifar" else _IMAGENET_UNIT).fullmatch(path)
    if found is None:
        outer = _OUTER[layout]
        key = next(
            (
                key
                for key in outer
                if path == key or (layout == "imagenet" and path.endswith(f"/{key}"))
            ),
            None,
        )
        return None if key is None else f"{outer[key]}.{_LEAVES[leaf]}"
    block, unit, piece = int(found[1]) - 1, int(found[2]) - 1, found[3]
    if piece.startswith("halting_proba/"):
        part = piece.removeprefix("halting_proba/")
        return (
            f"scores.{block}.{unit}.{part}.{_LEAVES[leaf]}"
            if part in ("local_bn", "local_conv", "global_bn", "global_conv")
            else None
        )
    return f"blocks.{block}.{unit}.{_PIECES[piece]}.{_LEAVES[leaf]}" if piece in _PIECES else None


def _turned(name: str, value: Tensor) -> Tensor:
    """Kernels (height, width, in, out) as (out, in, height, width); the logits' as (out, in)."""
    if value.ndim != 4:
        return value
    kernel = value.permute(3, 2, 0, 1).contiguous()
    return kernel.flatten(1) if name == "fc.weight" and kernel.shape[2:] == (1, 1) else kernel
