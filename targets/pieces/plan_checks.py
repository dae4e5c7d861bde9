"""What a plan asks before a run: whether parameters make a network. Torch is imported only where
timm has to be asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def check_backbone(load: Callable[[], Any], params: Mapping[str, Any]) -> None:
    """Refuse a backbone that cannot have exits.

    Args:
        load: gives the class of the target.
        params: all of its parameters, as it takes them.

    Raises:
        PlanError: naming the backbone and why.
    """
    if not _is_ours(params["backbone"]) and params["backbone"] != "vgg-16-bn":
        load()(**params)


def check_networks(load: Callable[[], Any], params: Mapping[str, Any]) -> None:
    """Refuse a row of networks that makes no cascade.

    Args:
        load: gives the class of the target.
        params: all of its parameters, as it takes them.

    Raises:
        PlanError: naming what does not fit.
    """
    networks, sizes = params["networks"], params["sizes"]
    plain = len(sizes) >= 2 and len(networks) in (1, len(sizes)) and min(sizes) >= 0
    if not plain or params["threshold"] != "weights" or not all(map(_is_ours, networks)):
        load()(**params)


def _is_ours(name: str) -> bool:
    """Whether a name is that of one of our residual networks for small images."""
    family, _, depth = name.partition("-")
    return family == "resnet" and depth.isdigit() and int(depth) >= 8 and int(depth) % 6 == 2
