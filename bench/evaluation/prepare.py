"""One shard of one cell: clean pass, attack, judge, audit, record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts.attack import Attack, Skip
from bench.contracts.dataset import Dataset
from bench.contracts.target import Target
from bench.contracts.threat import parse_threat
from bench.datasets.base import check_classes, padded, subset
from bench.errors import ContractBroken, PlanError, PluginError
from bench.evaluation import cost, masking, target_checks
from bench.evaluation.build import (
    build,
    build_bare,
    build_defended,
    copy_target,
    opened_dataset,
    trained_on,
)
from bench.files.canonical import canonical
from bench.image import to_float


@dataclass(frozen=True)
class Opened:
    """A cell made ready in this process: what every one of its shards needs.

    Attributes:
        document: the resolved cell (protocol, target, defense, attack), as in plan.json.
        target: frozen, on `device`, for scoring alone. attacked: another copy, which the attack sees: what its queries may leave
            behind in a target changes no score. state: a copy of the weights. noise: float noise.
        attack: the attack. dataset, indices: the images, in order. root: where the data lies.
    """

    document: Mapping[str, Any]
    target: Target
    attacked: Target
    state: dict[str, Tensor]
    noise: target_checks.Noise
    attack: Attack
    dataset: Dataset
    indices: Sequence[int]
    device: torch.device
    description: Mapping[str, Any]
    root: str | None = None


class Unsupported(Exception):
    """The attack does not run on this target under this threat."""


def open_cell(document: Mapping[str, Any], device: torch.device, root: str | None) -> Opened:
    """Make a cell ready: build target and attack, check that they fit, probe and audit the target.

    Raises:
        Unsupported: the attack says that it does not run here.
        PlanError, ContractBroken, PluginError, WeightsError, DataError.
    """
    protocol = document["protocol"]
    ready = _ready(
        canonical({name: document[name] for name in ("target", "defense", "protocol")}),
        device,
        root,
    )
    attack: Attack = build("attack", document["attack"])
    if not isinstance(attack, Attack):
        raise PluginError(f"attack {document['attack']['label']!r} is no bench.api.Attack")
    target, attacked = copy_target(ready.target), copy_target(ready.target)
    refusal = attack.supports(attacked, parse_threat(protocol["threat"]))
    if isinstance(refusal, Skip):
        raise Unsupported(refusal.reason)
    if refusal is not None:
        raise ContractBroken(
            f"supports() returned {refusal!r}, neither None nor a Skip with its reason"
        )
    return Opened(
        document,
        target,
        attacked,
        ready.state,
        ready.noise,
        attack,
        ready.dataset,
        ready.indices,
        device,
        ready.description,
        root,
    )


@dataclass(frozen=True)
class _Ready:
    """What all attacks on a target share: the target, which nobody but the copying touches, and what was found out about it."""

    target: Target
    state: dict[str, Tensor]
    noise: target_checks.Noise
    dataset: Dataset
    indices: Sequence[int]
    description: Mapping[str, Any]


@lru_cache(maxsize=1)
def _ready(terms: bytes, device: torch.device, root: str | None) -> _Ready:
    """Build a target with its defence, probe and audit it; once for all its cells in a row.

    Args:
        terms: canonical target, defence and protocol of a resolved cell.
    """
    document = json.loads(terms)
    protocol = document["protocol"]
    dataset = opened_dataset(protocol["dataset"], root)
    indices = subset(dataset, protocol["images"])
    threat = parse_threat(protocol["threat"])
    values = int(np.prod(dataset.image_shape))
    if not threat.admits_change(values):
        raise PlanError(
            f"protocol.threat: {threat} admits no change of an image of {values} values"
        )
    target = build_defended(document, root)
    if not isinstance(target, Target):
        raise PluginError(f"target {document['target']['label']!r} is no bench.api.Target")
    if tuple(target.image_shape) != tuple(dataset.image_shape):
        raise PlanError(
            f"{document['target']['label']} takes images of {tuple(target.image_shape)}, {dataset} has {tuple(dataset.image_shape)}"
        )
    check_classes(document["target"]["label"], target.classes, dataset)
    target.to(device)
    state = target_checks.freeze(target)
    images = to_float(padded_batch(dataset, indices, 0, protocol["batch"])[0]).to(device)
    probed = copy_target(target)
    noise = target_checks.probe(probed, images)
    target_checks.obeyed(probed, images[:1])
    floor, ceiling = cost.audit_extremes(probed, images[:1])
    target_checks.priced(probed, torch.cat(probed.extremes()).to(device))
    target_checks.unchanged(probed, state, "evaluating the target")
    bare = build_bare(document, probed, device)
    description = {
        "schema": 1,
        "floor": floor,
        "ceiling": ceiling,
        "reference": bare.ceiling if bare is not None else ceiling,
        "bound": probed.bound,
        "draws": probed.draws,
        "noise": {"logits": noise.logits, "margins": noise.margins},
        "classes": list(dataset.classes),
        "dataset": {"name": str(dataset), "note": dataset.note, "credits": list(dataset.credits)},
        "trained_on": trained_on(document["target"]["weights"]),
        "control": not bool(probed.units.cost.numel()) or floor == ceiling,
        "units": _units_document(probed),
        "gradients": masking.gradients(probed, images[:16], bare),
    }
    return _Ready(target, state, noise, dataset, indices, description)


def _units_document(target: Target) -> dict[str, Any]:
    units = target.units
    return {
        "name": list(units.name),
        "kind": list(units.kind),
        "owner": list(units.owner),
        "shape": [list(shape) for shape in units.shape],
        "cost": units.cost.tolist(),
        "threshold": units.threshold.tolist(),
        "alarm": units.alarm.nonzero().flatten().tolist(),
    }


def padded_batch(
    dataset: Dataset, indices: Sequence[int], first: int, batch: int
) -> tuple[Tensor, list[int]]:
    """A batch, a short one padded with its own images.

    Args:
        dataset: the images.
        indices: those of the protocol, in order.
        first: the place of the batch's first image in `indices`.
        batch: how many images, B.

    Returns:
        ((B, C, H, W) uint8 images, their B places in `indices`).
    """
    places = padded(range(first, min(first + batch, len(indices))), batch)
    return dataset.images([indices[place] for place in places]), places
