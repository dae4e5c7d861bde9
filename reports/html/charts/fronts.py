"""Recovery against PSNR: all cells of a board, or the cells of each attack joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from reports.html.charts.style import (
    MARK,
    PERCENT,
    QUIET,
    SCHEMA,
    SHAPES,
    Document,
    by_attack,
    colored,
    document,
    each_once,
    layer,
    legend,
    name,
    number,
    scaled,
)

MOST_IN_ONE = 60
"""Points of several targets that one panel holds; more get a panel a target."""
PANEL = 250
"""Pixels of a panel's width."""
MOST_LABELS, APART = 6, 0.06
"""Names along a front, and the recovery by which they keep apart."""

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
        by_target: whether targets have shapes of their own, with a legend, or where there are
            many points, panels of their own.

    Returns:
        The document; None without points.
    """
    if not points:
        return None
    attacks = each_once(point.attack for point in points)
    targets = each_once(point.target for point in points)
    named = colored(attacks, _leading(points, targets))
    color = by_attack(attacks, [name for name in named if name not in _controls(points)])
    if by_target and len(targets) > 1 and len(points) > MOST_IN_ONE:
        return _small_multiples(points, targets, color)
    shape = scaled(
        "target", "target", targets, [SHAPES[i % len(SHAPES)] for i in range(len(targets))]
    )
    shape["legend"] = legend() if by_target else None
    return document(*_layers(points, targets, color, {"shape": shape}), height=340)


def _small_multiples(
    points: Sequence[FrontPoint], targets: Sequence[str], color: Document
) -> Document:
    """A panel a target, all on the same axes."""
    panels: list[Document] = [
        {
            "title": {"text": target, "anchor": "start", "fontSize": 11, "limit": 250},
            "width": PANEL,
            "height": PANEL - 40,
            "layer": _layers([one for one in points if one.target == target], [target], color, {}),
        }
        for target in targets
    ]
    low, high = min(point.psnr for point in points), max(point.psnr for point in points)
    span = [min(point.recovery if point.low is None else point.low for point in points)]
    span.append(max(point.recovery if point.high is None else point.high for point in points))
    for panel in panels:
        for part in panel["layer"]:
            part["encoding"]["x"] = {
                **_X,
                "scale": {"domain": [round(low - 1, 1), round(high + 1, 1)]},
                "axis": {"tickCount": 4},
                "title": "pooled PSNR, dB",
            }
            part["encoding"]["y"] = {
                **part["encoding"]["y"],
                "scale": {"domain": [round(span[0], 3), round(span[1], 3)]},
            }
    return {"$schema": SCHEMA, "concat": panels, "columns": 3, "spacing": 20}


def _layers(
    points: Sequence[FrontPoint], targets: Sequence[str], color: Document, more: Document
) -> list[Document]:
    """The line that no attack passes, intervals, points, names along the line, and the ring."""
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
    where = {"x": x, "y": _Y, "color": color, "tooltip": tooltip, **more}
    layers.append(layer(records, "point", where, filled=True, size=80, opacity=0.9))
    said = _labels(lines)
    edge = _left_part(points)
    for align, dx, part in (
        ("left", 8, [record for record in said if record["psnr"] <= edge]),
        ("right", -8, [record for record in said if record["psnr"] > edge]),
    ):
        if part:  # a name to the left of a point at the left would lie across the axis
            where = {"x": x, "y": _Y, "text": name("attack")}
            layers.append(layer(part, "text", where, align=align, dx=dx, dy=-7, fontSize=10))
    if ringed := [record for record in records if record["marked"]]:
        ring = {"size": 320, "strokeWidth": 2.2, "filled": False, "color": MARK, "shape": "circle"}
        layers.append(layer(ringed, "point", {"x": x, "y": _Y}, **ring))
    return layers


def _controls(points: Sequence[FrontPoint]) -> set[str]:
    return {point.attack for point in points if point.control}


def _leading(points: Sequence[FrontPoint], targets: Sequence[str]) -> list[str]:
    """Attacks by how often they lie on the front of a target, then by their best recovery."""
    on_front = Counter(record["attack"] for record in _front_records(points, targets))
    best: dict[str, float] = {}
    for point in points:
        if not point.control:
            best[point.attack] = max(best.get(point.attack, -1.0), point.recovery)
    return sorted(best, key=lambda attack: (-on_front[attack], -best[attack]))


def _labels(lines: Sequence[Document]) -> list[Document]:
    """The points of a front whose names fit: the strongest first, none close above another."""
    said: list[Document] = []
    for record in sorted(lines, key=lambda record: -record["recovery"]):
        if len(said) < MOST_LABELS and all(
            abs(record["recovery"] - other["recovery"]) > APART for other in said
        ):
            said.append(record)
    return said


def _left_part(points: Sequence[FrontPoint]) -> float:
    """The PSNR up to which names have no room to the left."""
    found = [point.psnr for point in points]
    return min(found) + 0.2 * (max(found) - min(found))


def _front_records(points: Sequence[FrontPoint], targets: Sequence[str]) -> list[Document]:
    groups: dict[str, list[FrontPoint]] = {target: [] for target in targets}
    for point in points:
        if not point.control:
            groups[point.target].append(point)
    return [
        {
            "target": point.target,
            "attack": point.attack,
            "psnr": round(point.psnr, 3),
            "recovery": round(point.recovery, 5),
        }
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
    best = {
        attack: max(one.recovery for one in points if one.attack == attack) for attack in attacks
    }
    named = colored(attacks, sorted(best, key=lambda attack: -best[attack]))
    where = {
        "x": _X,
        "y": _Y,
        "color": by_attack(attacks, named),
        "detail": name("attack"),
        "tooltip": tooltip,
    }
    return document(
        layer(records, "line", where, strokeWidth=1.8),
        layer(records, "point", where, filled=True, size=60),
        height=320,
    )
