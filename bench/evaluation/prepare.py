"""A cell made ready: target and attack built, examined and copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.contracts.attack import Attack, Skip
from bench.contracts.cell import Cell, Component, Protocol
from bench.contracts.dataset import Dataset
from bench.contracts.target import Target
from bench.datasets.base import check_classes, padded, subset, subset_digest
from bench.errors import ContractBroken, DataError, PlanError, PluginError
from bench.evaluation.build import (
    build,
    build_learned,
    opened_dataset,
)
from bench.evaluation.describe import describe
from bench.evaluation.equivalence import equivalent_of
from bench.evaluation.meter import ForwardMeter
from bench.evaluation.outputs import check_unchanged, freeze
from bench.evaluation.passes import check_precision
from bench.evaluation.process_state import undisturbed
from bench.evaluation.target_checks import copy_target
from bench.evaluation.withheld import without_weights
from bench.image import to_float
from bench.store.target import DatasetWords, FloatNoise, TargetDescription


@dataclass(frozen=True)
class Opened:
    """A cell made ready in this process: what every one of its shards needs.

    Attributes:
        cell: the resolved cell.
        target: frozen, on `device`, for scoring alone.
        attacked: the target's equivalent, which the attack evaluates: what its queries may leave
            behind changes no score.
        reference: another copy of the equivalent, which no attack evaluates.
        meter: counts the images that `attacked` evaluates.
        state: a copy of the weights of `attacked`.
        noise: float noise of the target.
        attack: the attack.
        dataset: the images.
        indices: those of the protocol, in order.
        device: where it is evaluated.
        description: of the target, as in target.json.
        root: where data sets lie.
        learnt: digest of what the target's defense learned, "" where none learns.
    """

    cell: Cell
    target: Target
    attacked: Target
    reference: Target
    meter: ForwardMeter
    state: dict[str, Tensor]
    noise: FloatNoise
    attack: Attack
    dataset: Dataset
    indices: Sequence[int]
    device: torch.device
    description: TargetDescription
    root: str | None = None
    learnt: str = ""


class Unsupported(Exception):
    """The attack does not run on this target under this threat."""


def open_cell(
    cell: Cell,
    device: torch.device,
    root: str | None,
    attack: Attack | None = None,
    fit_subset: str = "",
) -> Opened:
    """Make a cell ready: build target and attack, check that they fit, probe and audit the target.

    Args:
        cell: the resolved cell.
        device: where it is evaluated.
        root: where data sets lie.
        attack: in place of the one that the cell names.
        fit_subset: digest of the images that are learned from, as they were when the run began; ""
            where nobody compares.

    Raises:
        Unsupported: the attack says that it does not run here.
        PlanError, ContractBroken, PluginError, WeightsError, DataError.
    """
    if cell.fits and fit_subset:
        check_fit_images(cell, root, fit_subset)
    ready = _Last.ready(cell, device, root)
    if attack is None:
        attack = build("attack", cell.attack)
    if not isinstance(attack, Attack):
        raise PluginError(f"attack {cell.attack.label!r} is no bench.api.Attack")
    refusal = attack.supports(copy_target(ready.shown), cell.protocol.threat)
    if isinstance(refusal, Skip):
        raise Unsupported(refusal.reason)
    if refusal is not None:
        raise ContractBroken(
            f"supports() returned {refusal!r}, neither None nor a Skip with its reason",
            hint='return None where the attack runs, else Skip("the reason")',
        )
    attacked = copy_target(ready.reference)
    return Opened(
        cell,
        copy_target(ready.target),
        attacked,
        ready.reference,
        ForwardMeter(attacked),
        ready.state,
        ready.noise,
        attack,
        ready.dataset,
        ready.indices,
        device,
        ready.description,
        root,
        ready.learnt,
    )


def check_fit_images(cell: Cell, root: str | None, expected: str) -> None:
    """Whether the images that this process learns from are those that the run began with.

    Args:
        cell: that learns.
        root: where data sets lie.
        expected: digest of the images.

    Raises:
        DataError: they are not.
    """
    dataset = opened_dataset(cell.protocol.fit_dataset, root)
    with undisturbed():
        found = subset_digest(dataset, subset(dataset, cell.protocol.fit.images))
    if found != expected:
        raise DataError(
            f"the images of {dataset} that are learned from are others than when the run began",
            hint="a data set gives the same ids, labels and pixels in every process",
        )


@dataclass(frozen=True)
class _Ready:
    """What all attacks on a target share: the target, never evaluated directly, and what is known
    of it.

    Attributes:
        target: as built, frozen.
        reference: its equivalent.
        shown: a copy of the equivalent without its weights, for attacks to look at.
        state: a copy of the weights of `reference`.
        noise: float noise of the target.
        dataset: the images.
        indices: those of the protocol, in order.
        description: of the target, as in target.json.
        learnt: digest of what its defense learned, "" where none learns.
    """

    target: Target
    reference: Target
    shown: Target
    state: dict[str, Tensor]
    noise: FloatNoise
    dataset: Dataset
    indices: Sequence[int]
    description: TargetDescription
    learnt: str


_Terms = tuple[Component, Component | None, Protocol, torch.device, str | None]


class _Last:
    """The target that was made ready last, for all of its cells in a row."""

    _kept: tuple[_Terms, _Ready] | None = None

    @classmethod
    def ready(cls, cell: Cell, device: torch.device, root: str | None) -> _Ready:
        """A target with its defense, probed and audited; kept until another one is asked for."""
        terms = (cell.target, cell.defense, cell.protocol, device, root)
        if cls._kept is None or cls._kept[0] != terms:
            cls.forget()  # memory for one of them is enough
            cls._kept = terms, _make_ready(cell, device, root)
        return cls._kept[1]

    @classmethod
    def forget(cls) -> None:
        """Let go of it."""
        cls._kept = None


def forget() -> None:
    """Make targets and data sets anew from here on: their code may have been edited and loaded."""
    _Last.forget()
    opened_dataset.cache_clear()


def _make_ready(cell: Cell, device: torch.device, root: str | None) -> _Ready:
    """Build a target with its defense, probe and audit it."""
    protocol = cell.protocol
    check_precision(protocol.precision, device)
    dataset = opened_dataset(protocol.dataset, root)
    indices = subset(dataset, protocol.images)
    values = int(np.prod(dataset.image_shape))
    if not protocol.threat.admits_change(values):
        raise PlanError(
            f"protocol.threat: {protocol.threat} admits no change of an image of {values} values"
        )
    target, learnt = build_learned(cell, root)
    if not isinstance(target, Target):
        raise PluginError(f"target {cell.target.label!r} is no bench.api.Target")
    if tuple(target.image_shape) != tuple(dataset.image_shape):
        raise PlanError(
            f"{cell.target.label} takes images of {tuple(target.image_shape)}, "
            f"{dataset} has {tuple(dataset.image_shape)}"
        )
    check_classes(cell.target.label, target.classes, dataset)
    target.to(device)
    state = freeze(target)
    images = to_float(padded_batch(dataset, indices, 0, protocol.batch)[0]).to(device)
    probed = copy_target(target)
    words = DatasetWords(str(dataset), dataset.note, tuple(dataset.credits))
    description = describe(probed, cell, words, tuple(dataset.classes), images)
    check_unchanged(probed, state, "evaluating the target")
    reference = equivalent_of(target, images)
    return _Ready(
        target,
        reference,
        without_weights(reference),
        freeze(reference),
        description.noise,
        dataset,
        indices,
        description,
        learnt,
    )


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
    with undisturbed():
        return dataset.images([indices[place] for place in places]), places
