"""Recovery against PSNR: all cells of a board, or the cells of each attack joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.html.charts.style import (
    MARK,
    PERCENT,
    QUIET,
    SERIES,
    SHAPES,
    Document,
    by_attack,
    dashes,
    document,
    each_once,
    layer,
    legend,
    name,
    number,
    scaled,
)

_X = number(
    "psnr",
    title="pooled PSNR in dB (further right: harder to see)",
    scale={"zero": False, "nice": True, "padding": 18},
)
_Y = number("recovery", title="recovery of the saved MACs", axis=PERCENT)


@dataclass(frozen=True)
class FrontPoint:
    """A cell in the plane of recovery (share) and PSNR (dB, of the mean squared error)."""

    target: str
    attack: str
    control: bool
    psnr: float
    recovery: float
    low: float | None
    high: float | None
    marked: bool = False


def front(points: Sequence[FrontPoint], *, by_target: bool = True) -> Document | None:
    """Recovery against PSNR, with the line that no attack of the same target passes.

    Args:
        points: the cells.
        by_target: whether targets have shapes of their own, with a legend.

    Returns:
        The document; None without points.
    """
    if not points:
        return None
    attacks = each_once(point.attack for point in points if not point.control)
    controls = each_once(point.attack for point in points if point.control)
    targets = each_once(point.target for point in points)
    records = [
        {
            "target": point.target,
            "attack": point.attack,
            "psnr": round(point.psnr, 3),
            "recovery": round(point.recovery, 5),
            "low": round(point.recovery if point.low is None else point.low, 5),
            "high": round(point.recovery if point.high is None else point.high, 5),
            "marked": point.marked,
        }
        for point in points
    ]
    colors = [SERIES[i % len(SERIES)] for i in range(len(attacks))] + [QUIET] * len(controls)
    color = scaled("attack", "attack", attacks + controls, colors)
    shape = scaled(
        "target", "target", targets, [SHAPES[i % len(SHAPES)] for i in range(len(targets))]
    )
    shape["legend"] = legend() if by_target else None
    tooltip = [
        name("target"),
        name("attack"),
        number("recovery", format=".1%"),
        number("low", format=".1%", title="interval from"),
        number("high", format=".1%", title="to"),
        number("psnr", format=".1f", title="pooled PSNR, dB"),
    ]
    x = {**_X, "axis": {"tickCount": 8}}
    layers = []
    if lines := _front_records(points, targets):
        where: Document = {"x": x, "y": _Y, "detail": name("target")}
        stroke = {"color": QUIET, "strokeDash": [4, 3], "strokeWidth": 1}
        layers.append(layer(lines, "line", where, interpolate="step-before", **stroke))
    spans = {"x": x, "y": number("low"), "y2": {"field": "high"}, "color": color}
    layers.append(layer(records, "rule", spans, strokeWidth=1.2, opacity=0.6))
    where = {"x": x, "y": _Y, "color": color, "shape": shape, "tooltip": tooltip}
    layers.append(layer(records, "point", where, filled=True, size=80, opacity=0.9))
    if ringed := [record for record in records if record["marked"]]:
        ring = {"size": 320, "strokeWidth": 2.2, "filled": False, "color": MARK, "shape": "circle"}
        layers.append(layer(ringed, "point", {"x": x, "y": _Y}, **ring))
    return document(*layers, height=340)


def _front_records(points: Sequence[FrontPoint], targets: Sequence[str]) -> list[Document]:
    groups: dict[str, list[FrontPoint]] = {target: [] for target in targets}
    for point in points:
        if not point.control:
            groups[point.target].append(point)
    return [
        {"target": point.target, "psnr": round(point.psnr, 3), "recovery": round(point.recovery, 5)}
        for members in groups.values()
        for point in undominated(members)
    ]


def undominated(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """The points that no other beats in both recovery and PSNR, from high PSNR to low."""
    kept: list[FrontPoint] = []
    for point in sorted(points, key=lambda point: (-point.psnr, -point.recovery, point.attack)):
        if not kept or point.recovery > kept[-1].recovery:
            kept.append(point)
    return kept


def front_lines(points: Sequence[FrontPoint]) -> Document | None:
    """Recovery against PSNR on one target, the cells of an attack joined; None without points."""
    if not points:
        return None
    attacks = each_once(point.attack for point in points)
    records = [
        {"attack": point.attack, "psnr": round(point.psnr, 3), "recovery": round(point.recovery, 5)}
        for point in points
    ]
    tooltip = [name("attack"), number("psnr", format=".1f"), number("recovery", format=".1%")]
    where = {"x": _X, "y": _Y, "color": by_attack(attacks), "tooltip": tooltip}
    return document(
        layer(records, "line", {**where, "strokeDash": dashes(attacks)}, strokeWidth=1.8),
        layer(records, "point", where, filled=True, size=60),
        height=320,
    )
