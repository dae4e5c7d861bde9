"""The rows of a cell held against the terms that they were made under.

A row that an honest run wrote used no more than its budget, lies inside its threat, names classes
that there are, and costs what its target can execute; and its columns agree with each other. Rows
are looked at where a cell is sealed, and again wherever sealed rows are read to be shown, ranked or
compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from bench.contracts.cell import BACKWARD, FORWARD, Cell
from bench.contracts.threat import PSNR_CAP
from bench.store.schema import TRACE_POINTS, check_table
from bench.store.sealed import Combination
from bench.store.target import TargetDescription

Array = npt.NDArray[Any]
_Check = tuple[Array, Callable[[int], str]]
"""(n,) bool, whether each row holds; and what is wrong with the row at a place."""

_CLASSES = ("label", "clean_prediction", "adversarial_prediction")
_MACS = ("clean_macs", "adversarial_macs", "float_macs", "jpeg_macs")
_COLORS = 3
"""Channels of a saved picture."""
_NEAR = 1e-5
"""How far l2 and PSNR may lie from what the sum of D^2 makes them, relative or absolute."""


def check_measured(
    table: pa.Table,
    cell: Cell,
    target: TargetDescription | None,
    combination: Combination | None = None,
) -> None:
    """Refuse rows that are not those of a cell's protocol, or that its terms do not allow.

    Args:
        table: some columns of a cell, the ids among them.
        cell: the resolved cell.
        target: as target.json describes it; None where it is not described.
        combination: of an ensemble, which cells it is made of.

    Raises:
        ValueError: saying what is wrong.
    """
    check_table(table, cell.protocol.images)
    for problem in row_problems(table, cell, target, combination):
        raise ValueError(problem)


def row_problems(
    table: pa.Table,
    cell: Cell,
    target: TargetDescription | None,
    combination: Combination | None = None,
) -> Iterator[str]:
    """What the terms of a cell do not allow of its rows, in words; the first image of each kind.

    Args:
        table: some columns of a cell, the ids among them; what needs others is left out.
        cell: the resolved cell.
        target: as target.json describes it; None where it is not described.
        combination: of an ensemble, which cells it is made of.
    """
    rows = {
        name: table[name].to_numpy()
        for name, kind in zip(table.column_names, table.schema.types, strict=True)
        if pa.types.is_integer(kind) or pa.types.is_floating(kind)
    }
    checks = [*_spending(rows, budget_of(cell, combination)), *_distances(rows, cell, target)]
    if target is not None:
        checks += _results(rows, target)
        if "trace" in table.column_names and "evaluations" in rows:
            checks += _traces(table["trace"].to_pylist(), rows["evaluations"], target)
    for holds, text in checks:
        wrong = np.flatnonzero(~holds)
        if len(wrong):
            place = int(wrong[0])
            yield f"image {table['id'][place].as_py()}: {text(place)}"


def budget_of(cell: Cell, combination: Combination | None = None) -> int:
    """Forward-equivalents that each image of a cell may have used; of an ensemble, those of all
    members together."""
    members = len(cell.attack.members)
    if combination is not None:
        members = min(members, len(combination.members))
    return cell.protocol.budget * max(members, 1)


def _spending(rows: Mapping[str, Array], budget: int) -> Iterator[_Check]:
    """Whether evaluations are the passes, and within the budget."""
    if {"evaluations", "forwards", "backwards"} <= set(rows):
        used = rows["evaluations"]
        passes = FORWARD * rows["forwards"] + BACKWARD * rows["backwards"]
        yield (
            used == passes,
            lambda i: f"evaluations are not its passes: {used[i]}, {passes[i]} by its passes",
        )
        yield used <= budget, lambda i: f"used {used[i]} of {budget} forward-equivalents"
    if {"held", "flipped"} <= set(rows):
        yield (
            ~(rows["flipped"].astype(np.float64) > rows["held"].astype(np.float64)),
            lambda i: "flipped is more than held",
        )


def _distances(
    rows: Mapping[str, Array], cell: Cell, target: TargetDescription | None
) -> Iterator[_Check]:
    """Whether an image lies inside its threat, and its distances are of one difference."""
    if not {"linf", "squared", "l2", "psnr"} <= set(rows):
        return
    linf, squared, threat = rows["linf"], rows["squared"], cell.protocol.threat
    shape = target.image_shape if target is not None else ()
    values = math.prod(shape) if shape else _values(squared, rows["psnr"])
    yield (
        (linf**2 <= squared) & (squared <= float(values or 0) * linf**2),
        lambda i: f"squared is {squared[i]}, which linf {linf[i]} does not allow",
    )
    norm = np.sqrt(squared) / 255
    yield _same("l2", rows["l2"], norm)
    if values is not None:
        with np.errstate(divide="ignore"):
            decibel = 10 * np.log10(255.0**2 * values / squared)
        yield _same("psnr", rows["psnr"], np.where(squared == 0, PSNR_CAP, decibel))
    inside = None
    if threat.norm == "linf":
        inside = linf <= (threat.bound(0) or 0)
    elif threat.norm == "patch":
        channels = shape[0] if shape else _COLORS
        inside = squared <= 255**2 * channels * (threat.bound(0) or 0) ** 2
    elif threat.norm != "none" and values is not None:
        inside = squared <= (threat.bound(values) or 0)
    if inside is not None:
        yield inside, lambda i: f"lies outside {threat}: linf {linf[i]}, squared {squared[i]}"


def _values(squared: Array, psnr: Array) -> int | None:
    """Numbers of an image, by the sum of D^2 and the PSNR of the first that was changed."""
    changed = np.flatnonzero(squared > 0)
    if not len(changed):
        return None
    first = changed[0]
    if not 0 <= psnr[first] <= PSNR_CAP:
        return None
    return max(1, round(float(squared[first]) * 10 ** (float(psnr[first]) / 10) / 255**2))


def _same(name: str, stated: Array, made: Array) -> _Check:
    """Whether a column is what others make it."""
    return (
        np.abs(stated - made) <= _NEAR * np.maximum(np.abs(made), 1),
        lambda i: f"{name} is {stated[i]:g}, its squared makes {made[i]:g}",
    )


def _results(rows: Mapping[str, Array], target: TargetDescription) -> Iterator[_Check]:
    """Whether classes, units and MACs are the target's."""
    classes, units = len(target.classes), len(target.units)
    if classes:
        for name in _CLASSES:
            if name in rows:
                yield rows[name] < classes, _said(name, rows[name], f"of {classes} classes")
    for name in _MACS:
        if name in rows:
            macs = rows[name]
            yield (
                ~((macs < target.floor) | (macs > target.bound)),
                _said(
                    name,
                    macs,
                    f"outside the floor and bound of its target, {target.floor} and {target.bound}",
                ),
            )
    if "near_threshold" in rows:
        near = rows["near_threshold"]
        yield near <= 2 * units, _said("near_threshold", near, f"of {units} units")


def _said(name: str, values: Array, what: str) -> Callable[[int], str]:
    return lambda i: f"{name} is {values[i]:.0f}, {what}"


def _traces(
    traces: Sequence[Sequence[Mapping[str, Any]]], used: Array, target: TargetDescription
) -> Iterator[_Check]:
    """Whether each trace hangs together."""
    most = max(target.bound, target.reference)
    holds = np.array(
        [
            _is_trace(points, int(evaluations), most)
            for points, evaluations in zip(traces, used, strict=True)
        ],
        dtype=bool,
    )
    yield holds, lambda i: "its trace does not hang together"


def _is_trace(points: Sequence[Mapping[str, Any]], evaluations: int, most: int) -> bool:
    """Whether evaluations grow within what was used, and each point beats the one before."""
    if len(points) > TRACE_POINTS:
        return False
    for before, point in zip([None, *points], points, strict=False):
        if not (0 <= point["evaluations"] <= evaluations and 0 <= point["macs"] <= most):
            return False
        if not point["squared"] >= 0:
            return False
        if before is not None and (
            point["evaluations"] < before["evaluations"]
            or (point["macs"], -point["squared"]) <= (before["macs"], -before["squared"])
        ):
            return False
    return True
