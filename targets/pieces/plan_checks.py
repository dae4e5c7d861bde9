"""What a plan asks before a run: whether parameters make a network. Torch is imported only where
timm has to be asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_sdn(*, backbone: str, **others: Any) -> None:
    """Refuse backbones that cannot have exits.

    Raises:
        PlanError: naming the backbone and why.
    """
    if _is_ours(backbone) or backbone == "vgg-16-bn":
        return
    from targets.sdn import SDN

    SDN(backbone=backbone, **others)


def check_cascade(
    *, networks: Sequence[str], sizes: Sequence[int], threshold: Any, **others: Any
) -> None:
    """Refuse cascades that cannot be made.

    Raises:
        PlanError: naming what does not fit.
    """
    plain = len(sizes) >= 2 and len(networks) in (1, len(sizes)) and min(sizes) >= 0
    if plain and threshold == "weights" and all(_is_ours(name) for name in networks):
        return
    from targets.cascade import Cascade

    Cascade(networks=tuple(networks), sizes=tuple(sizes), threshold=threshold, **others)


def _is_ours(name: str) -> bool:
    """Whether a name is that of one of our residual networks for small images."""
    family, _, depth = name.partition("-")
    return family == "resnet" and depth.isdigit() and int(depth) >= 8 and int(depth) % 6 == 2
