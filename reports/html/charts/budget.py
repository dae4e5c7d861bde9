"""What an attack had reached after so many forward-equivalents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.html.charts.style import (
    ADVERSARIAL,
    PERCENT,
    QUIET,
    Document,
    by_attack,
    colored,
    document,
    each_once,
    layer,
    macs_unit,
    name,
    number,
)


@dataclass(frozen=True)
class TracePoint:
    """Mean over images after so many forward-equivalents: MACs of each image's best so far."""

    evaluations: int
    macs: float


@dataclass(frozen=True)
class CurvePoint:
    """What an attack had recovered (a share) after so many forward-equivalents."""

    attack: str
    evaluations: int
    recovery: float


def trace(points: Sequence[TracePoint], floor: int, ceiling: int, clean: float) -> Document | None:
    """Mean MACs of the best image so far against the forward-equivalents spent.

    Args:
        points: in the order of evaluations.
        floor: MACs of the target's cheapest decisions.
        ceiling: MACs of its dearest.
        clean: mean MACs of the clean images.

    Returns:
        The document; None without points.
    """
    if not points:
        return None
    unit, called = macs_unit(ceiling)
    records = [
        {"evaluations": point.evaluations, "macs": round(point.macs / unit, 6)} for point in points
    ]
    bounds = [
        {"line": "ceiling", "at": round(ceiling / unit, 6)},
        {"line": "clean mean", "at": round(clean / unit, 6)},
    ]
    where = {
        "x": number("evaluations", title="forward-equivalents an image"),
        "y": number("macs", title=f"mean MACs, {called}", scale={"zero": False, "padding": 12}),
        "tooltip": [number("evaluations"), number("macs", format=".4~f")],
    }
    at = number("at")
    return document(
        layer(
            records,
            "line",
            where,
            interpolate="step-after",
            color=ADVERSARIAL,
            strokeWidth=2,
            point={"size": 24, "color": ADVERSARIAL},
        ),
        layer(bounds, "rule", {"y": at}, strokeDash=[5, 3], color=QUIET, strokeWidth=1.5),
        layer(
            bounds,
            "text",
            {"y": at, "text": name("line")},
            align="right",
            x="width",
            dx=-4,
            dy=-6,
            fontSize=11,
            color=QUIET,
        ),
        height=230,
    )


def curves(points: Sequence[CurvePoint]) -> Document | None:
    """Recovery against forward-equivalents spent, a line an attack; None without points."""
    points = [point for point in points if point.evaluations > 0]
    if not points:
        return None
    attacks = each_once(point.attack for point in points)
    records = [
        {
            "attack": point.attack,
            "evaluations": point.evaluations,
            "recovery": round(point.recovery, 5),
        }
        for point in points
    ]
    x = number(
        "evaluations",
        title="forward-equivalents an image",
        scale={"type": "log", "nice": False},
    )
    ends = {point.attack: point.recovery for point in points}
    leading = sorted(ends, key=lambda attack: -ends[attack])
    where = {
        "x": x,
        "y": number("recovery", title="recovery, best so far", axis=PERCENT),
        "color": by_attack(attacks, colored(attacks, leading)),
        "detail": name("attack"),
        "tooltip": [name("attack"), number("evaluations"), number("recovery", format=".1%")],
    }
    return document(
        layer(records, "line", where, interpolate="step-after", strokeWidth=2), height=300
    )
