"""What is found out about a target before anything is attacked, and what it says of itself."""

from __future__ import annotations

from torch import Tensor

from bench.contracts.cell import Cell
from bench.contracts.target import Target
from bench.evaluation import masking, yardstick
from bench.evaluation.build import build_bare, trained_on
from bench.evaluation.target_checks import examine
from bench.store.target import DatasetWords, TargetDescription, UnitColumns

GRADIENTS = 16
"""Images whose gradients are looked at."""


def describe(
    target: Target,
    cell: Cell,
    dataset: DatasetWords,
    classes: tuple[str, ...],
    images: Tensor,
) -> TargetDescription:
    """Probe and audit a target, and describe it.

    Args:
        target: with its defense, on its device; a copy, since it may remember what it is asked.
        cell: that it was built for.
        dataset: what the data set of the cell says of itself.
        classes: of the data set.
        images: (B, C, H, W) float in [0,1], the first batch of the cell, on the target's device.

    Raises:
        ContractBroken: it does what its contract forbids.
    """
    made = examine(target, images)
    floor, ceiling = made.floor, made.ceiling
    bare = build_bare(cell, target, images.device)
    return TargetDescription(
        floor=floor,
        ceiling=ceiling,
        reference=int(bare.ceiling) if bare is not None else ceiling,
        bound=int(target.bound),
        draws=int(target.draws),
        noise=made.noise,
        classes=classes,
        dataset=dataset,
        control=not bool(target.units.cost.numel()) or floor == ceiling,
        units=unit_columns(target),
        gradients=masking.gradients(target, images[:GRADIENTS], bare),
        trained_on=trained_on(cell.target.weights, classes),
        yardstick=yardstick.measure(target, images[: yardstick.IMAGES], cell.protocol.threat),
        image_shape=tuple(images.shape[1:]),
    )


def unit_columns(target: Target) -> UnitColumns:
    """The units of a target, as they are stored."""
    units = target.units
    return UnitColumns(
        name=tuple(units.name),
        kind=tuple(units.kind),
        owner=tuple(units.owner),
        shape=tuple(tuple(shape) for shape in units.shape),
        cost=tuple(units.cost.tolist()),
        threshold=tuple(units.threshold.tolist()),
        alarm=tuple(units.alarm.nonzero().flatten().tolist()),
    )
