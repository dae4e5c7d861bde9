"""`bench.load_target`: a network with its weights, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import weights
from bench.contracts.target import Target
from bench.errors import PlanError


def load_target(
    name: str | Mapping[str, Any],
    *,
    defense: str | Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Target:
    """A target with its weights, in eval mode, ready for images.

    Args:
        name: of weights ("skipnet-20-budget@digits-m"), or a table as in a plan ({"use":
            "skipnet", "weights": "random:0", "params": {"depth": 8}}).
        defense: put around it: a name or a table; one that learns nothing.
        device: where it is to lie.

    Returns:
        The target; it takes images in [0,1].

    Raises:
        PlanError: the name or a parameter is not known.
        WeightsError: the weights are missing or damaged.

    Examples:
        >>> import bench
        >>> network = bench.load_target("skipnet-20-budget@digits-m")
        >>> len(network.units), network.image_shape
        (8, (3, 32, 32))
    """
    from bench.evaluation.build import build_defended
    from bench.plans.resolve import resolve_document
    from bench.python.handing import checked_table

    document: dict[str, Any] = {
        "protocol": {"dataset": "digits-m:test", "threat": "none", "images": 1},
        "target": [target_table(name)],
        "attack": [{"use": "identity"}],
    }
    if defense is not None:
        document["defense"] = [checked_table(defense, "defense")]
    cell = resolve_document(document, "bench.load_target").cells[-1]
    if cell.fits:
        raise PlanError(
            f"{cell.defense.label if cell.defense else ''} learns from images of a plan first",
            hint="bench.evaluate(target, attack, images, defense=…) does both",
        )
    return build_defended(cell, None).to(device).eval()


def target_table(given: str | Mapping[str, Any]) -> dict[str, Any]:
    """The [[target]] table that the name of weights, or a table, means.

    Raises:
        UnknownName: no weights have that name.
    """
    if not isinstance(given, str):
        return dict(given)
    return {"use": weights.find(given).target, "weights": given}
