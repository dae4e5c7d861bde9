"""The plan that the arguments of one evaluation come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.contracts.threat import Threat

PSNR35: Mapping[str, Any] = {"norm": "psnr", "floor": 35}
"""The threat where none is given."""


def plan_document(
    *,
    target: Mapping[str, Any],
    attacks: Sequence[Mapping[str, Any]],
    defense: Mapping[str, Any] | None,
    dataset: str,
    images: int,
    threat: Threat | str | Mapping[str, Any],
    budget: int,
    batch: int,
    seed: int,
) -> dict[str, Any]:
    """A plan of one target and one protocol, as a TOML file would hold it."""
    document: dict[str, Any] = {
        "schema": 1,
        "protocol": {
            "dataset": dataset,
            "images": images,
            "batch": batch,
            "threat": threat.document() if isinstance(threat, Threat) else threat,
            "budget": budget,
            "seeds": [seed],
            "audit": min(4, images),
        },
        "target": [dict(target)],
        "attack": [dict(one) for one in attacks],
    }
    if defense is not None:
        document["defense"] = [dict(defense)]
    return document
