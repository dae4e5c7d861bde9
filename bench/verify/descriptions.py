"""target.json compared with the target itself, built and probed again."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

from bench.codec import size_of
from bench.contracts.target import Target
from bench.datasets.base import padded
from bench.evaluation.describe import describe
from bench.image import to_float
from bench.store.pictures import row_images
from bench.store.target import DatasetWords, FloatNoise, TargetDescription
from bench.verify.findings import Examined, Findings, short

NOISE_APART = 16.0
"""How many times larger or smaller a stated float noise may be than what is measured here."""


def check_descriptions(
    target: Target,
    cells: Sequence[Examined],
    words: tuple[DatasetWords, tuple[str, ...]] | None,
    device: str,
    found: Findings,
) -> FloatNoise:
    """Compare what cells say of their target with the target.

    Args:
        target: of all of them, with its defense, frozen.
        cells: on it.
        words: what the data set says of itself, and its classes; None where it is not here.
        device: where to evaluate.
        found: hears what does not hold.

    Returns:
        The target's float noise, measured here.
    """
    first = cells[0]
    rows = padded(first.rows[: first.cell.protocol.batch], first.cell.protocol.batch)
    size = size_of(target.image_shape)
    images = to_float(row_images(first.folder, rows, "image", size)).to(device)
    dataset, classes = words or (first.target.dataset, first.target.classes)
    made = describe(copy.deepcopy(target), first.cell, dataset, classes, images)
    for cell in cells:
        found.remarks += [f"{cell.label}: {text}" for text in _omissions(cell.target, made)]
        for text, measured in _differences(cell.target, made):
            # what is measured may differ on another machine; what is counted or named may not
            where = found.remarks if measured and cell.elsewhere else found.problems
            where.append(f"{cell.label}: {text}")
    return made.noise


_LATER = ("trained_on", "yardstick", "image_shape")
"""Fields that older runs lack."""


def _omissions(said: TargetDescription, made: TargetDescription) -> Iterator[str]:
    """What a description does not say because the run is older than that, in words."""
    for field in fields(TargetDescription):
        then, now = getattr(said, field.name), getattr(made, field.name)
        if field.name in _LATER and then == field.default != now:
            yield f"target.json does not say {field.name}: {short(now)}"
    if made.units.alarm and not said.units.alarm:
        yield "target.json does not say which units respond to an alarm"


def _differences(said: TargetDescription, made: TargetDescription) -> Iterator[tuple[str, bool]]:
    """(in words, whether it is of what is measured) of each field that differs."""
    for field in fields(TargetDescription):
        then, now = getattr(said, field.name), getattr(made, field.name)
        if field.name in _LATER and then == field.default:
            continue  # see `_omissions`
        if field.name == "noise":
            if not (_is_near(then.logits, now.logits) and _is_near(then.margins, now.margins)):
                yield f"target.json says noise = {short(then)}, measured here {short(now)}", True
        elif field.name == "units":
            if then != (now if then.alarm else replace(now, alarm=())):
                yield "target.json names other units than the target has", False
        elif then != now:
            text = f"target.json says {field.name} = {short(then)}, the target has {short(now)}"
            yield text, field.name in ("gradients", "yardstick")


def _is_near(said: float, measured: float) -> bool:
    return measured / NOISE_APART <= said <= measured * NOISE_APART
