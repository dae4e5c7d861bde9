"""Charts as Vega-Lite documents, made with Altair: data, no code, the same for the same board.

Field names are ours and fixed; text from plugins occurs as data values only, never in an expression, a link or a format.
Widths are "container" for the page and a number for the still picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

CLEAN, ADVERSARIAL, QUIET, MARK = "#2c70ba", "#e0661a", "#8a93a3", "#c2255c"
"""Legible on white and on near-black alike."""

_SERIES = (
    "#2c70ba",
    "#e0661a",
    "#2f9e6e",
    "#7b5cc7",
    "#c2255c",
    "#b08900",
    "#0f93a8",
    "#9c5a3c",
    "#6b8e23",
    "#d16ba5",
)
_SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
_STILL_WIDTH = 640
_STILL_CONFIG = {
    "legend": {
        "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
        "titleFontWeight": "normal",
    },
    "axis": {"titleFontWeight": "normal"},
}
_MOST_NAMES = 24
"""Units named along an axis at most; beyond, they are numbered."""


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


def front(points: Sequence[FrontPoint], *, by_target: bool = True) -> dict[str, Any] | None:
    """Recovery against PSNR, with the line that no attack of the same target passes; None without points."""
    if not points:
        return None
    attacks = _names(point.attack for point in points if not point.control)
    control_names = _names(point.attack for point in points if point.control)
    targets = _names(point.target for point in points)
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
    lines = [
        {"target": point.target, "psnr": round(point.psnr, 3), "recovery": round(point.recovery, 5)}
        for target in targets
        for point in undominated(
            [point for point in points if point.target == target and not point.control]
        )
    ]
    data = alt.Data(values=records)
    x = alt.X(
        "psnr:Q",
        title="pooled PSNR in dB (further right: harder to see)",
        scale=alt.Scale(zero=False, nice=True, padding=18),
        axis=alt.Axis(tickCount=8),
    )
    y = alt.Y("recovery:Q", title="recovery of the saved MACs", axis=alt.Axis(format=".0%"))
    colours = [_SERIES[index % len(_SERIES)] for index in range(len(attacks))] + [QUIET] * len(
        control_names
    )
    colour = alt.Color(
        "attack:N",
        title="attack",
        sort=None,
        scale=alt.Scale(domain=attacks + control_names, range=colours),
        legend=_legend(),
    )
    shape = alt.Shape(
        "target:N",
        title="target",
        sort=None,
        scale=alt.Scale(
            domain=targets, range=[_SHAPES[index % len(_SHAPES)] for index in range(len(targets))]
        ),
        legend=_legend() if by_target else None,
    )
    tooltip = [
        alt.Tooltip("target:N"),
        alt.Tooltip("attack:N"),
        alt.Tooltip("recovery:Q", format=".1%"),
        alt.Tooltip("low:Q", format=".1%", title="interval from"),
        alt.Tooltip("high:Q", format=".1%", title="to"),
        alt.Tooltip("psnr:Q", format=".1f", title="pooled PSNR, dB"),
    ]
    layers: list[Any] = []
    if lines:
        layers.append(
            alt.Chart(alt.Data(values=lines))
            .mark_line(interpolate="step-before", color=QUIET, strokeDash=[4, 3], strokeWidth=1)
            .encode(x=x, y=y, detail="target:N")
        )
    layers.append(
        alt.Chart(data)
        .mark_rule(strokeWidth=1.2, opacity=0.6)
        .encode(x=x, y=alt.Y("low:Q"), y2="high:Q", color=colour)
    )
    layers.append(
        alt.Chart(data)
        .mark_point(filled=True, size=80, opacity=0.9)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip=tooltip)
    )
    ringed = [record for record in records if record["marked"]]
    if ringed:
        layers.append(
            alt.Chart(alt.Data(values=ringed))
            .mark_point(size=320, strokeWidth=2.2, filled=False, color=MARK, shape="circle")
            .encode(x=x, y=y)
        )
    return _document(alt.layer(*layers), height=340)


def undominated(points: Sequence[FrontPoint]) -> list[FrontPoint]:
    """The points than which no other has both more recovery and more PSNR, from high PSNR to low."""
    kept: list[FrontPoint] = []
    for point in sorted(points, key=lambda point: (-point.psnr, -point.recovery, point.attack)):
        if not kept or point.recovery > kept[-1].recovery:
            kept.append(point)
    return kept


def distribution(
    clean: Sequence[int], adversarial: Sequence[int], floor: int, ceiling: int, *, bins: int = 30
) -> dict[str, Any] | None:
    """Executed MACs of the images, clean and adversarial, between the lines of floor and ceiling."""
    values = [*clean, *adversarial]
    if not values:
        return None
    unit, name = _unit(max(ceiling, *values))
    low, high = min(floor, *values), max(ceiling, *values)
    step = max(high - low, 1) / bins
    records = []
    for series, numbers in (("clean", clean), ("adversarial", adversarial)):
        counts = [0] * bins
        for number in numbers:
            counts[min(bins - 1, int((number - low) / step))] += 1
        records += [
            {
                "series": series,
                "from": round((low + index * step) / unit, 6),
                "to": round((low + (index + 1) * step) / unit, 6),
                "images": count,
                "base": 0,
            }
            for index, count in enumerate(counts)
            if count
        ]
    named = (
        [("floor", floor), ("ceiling", ceiling)]
        if floor != ceiling
        else [("floor = ceiling", floor)]
    )
    bounds = [{"line": line, "at": round(at / unit, 6)} for line, at in named]
    x = alt.X(
        "from:Q",
        title=f"executed MACs of an image, {name}",
        scale=alt.Scale(zero=False, nice=False, padding=14),
    )
    bars = (
        alt.Chart(alt.Data(values=records))
        .mark_rect(opacity=0.72)
        .encode(
            x=x,
            x2="to:Q",
            y=alt.Y(
                "images:Q", title="images", axis=alt.Axis(tickMinStep=1), scale=alt.Scale(zero=True)
            ),
            y2="base:Q",
            color=_two_series(),
            tooltip=[
                alt.Tooltip("series:N"),
                alt.Tooltip("images:Q"),
                alt.Tooltip("from:Q", format=".4~f"),
                alt.Tooltip("to:Q", format=".4~f"),
            ],
        )
    )
    rules = (
        alt.Chart(alt.Data(values=bounds))
        .mark_rule(strokeDash=[5, 3], color=QUIET, strokeWidth=1.5)
        .encode(x="at:Q")
    )
    words = (
        alt.Chart(alt.Data(values=bounds))
        .mark_text(dy=-6, y=0, fontSize=11, color=QUIET)
        .encode(x="at:Q", text="line:N")
    )
    return _document(alt.layer(bars, rules, words), height=230)


def finished(
    clean: Sequence[int], adversarial: Sequence[int], floor: int, ceiling: int
) -> dict[str, Any] | None:
    """The share of images finished by each cost, clean and adversarial; the area under a curve is its efficacy.

    Cost is 0 at the floor and 1 at the ceiling; None without images, or where the two are the same.
    """
    if not clean or floor >= ceiling:
        return None
    records = []
    for series, numbers in (("clean", clean), ("adversarial", adversarial)):
        done = Counter(numbers)
        steps, total = [(0.0, 0.0)], 0
        for cost in sorted(done):
            total += done[cost]
            steps.append(((cost - floor) / (ceiling - floor), total / len(numbers)))
        records += [
            {"series": series, "cost": round(cost, 5), "share": round(share, 5)}
            for cost, share in (*steps, (1.0, 1.0))
        ]
    chart = (
        alt.Chart(alt.Data(values=records))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "cost:Q",
                title="cost, from the floor to the ceiling",
                axis=alt.Axis(format=".0%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            y=alt.Y(
                "share:Q",
                title="images finished",
                axis=alt.Axis(format=".0%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=_two_series(),
            tooltip=[
                alt.Tooltip("series:N"),
                alt.Tooltip("cost:Q", format=".1%"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    return _document(chart, height=230)


@dataclass(frozen=True)
class TracePoint:
    """Mean over images after so many forward-equivalents: MACs of each image's best so far."""

    evaluations: int
    macs: float


def trace(
    points: Sequence[TracePoint], floor: int, ceiling: int, clean: float
) -> dict[str, Any] | None:
    """Mean MACs of the best image so far against the forward-equivalents spent."""
    if not points:
        return None
    unit, name = _unit(ceiling)
    records = [
        {"evaluations": point.evaluations, "macs": round(point.macs / unit, 6)} for point in points
    ]
    bounds = [
        {"line": "ceiling", "at": round(ceiling / unit, 6)},
        {"line": "clean mean", "at": round(clean / unit, 6)},
    ]
    y = alt.Y("macs:Q", title=f"mean MACs, {name}", scale=alt.Scale(zero=False, padding=12))
    line = (
        alt.Chart(alt.Data(values=records))
        .mark_line(
            interpolate="step-after",
            color=ADVERSARIAL,
            strokeWidth=2,
            point=alt.OverlayMarkDef(size=24, color=ADVERSARIAL),
        )
        .encode(
            x=alt.X("evaluations:Q", title="forward-equivalents an image"),
            y=y,
            tooltip=[alt.Tooltip("evaluations:Q"), alt.Tooltip("macs:Q", format=".4~f")],
        )
    )
    rules = (
        alt.Chart(alt.Data(values=bounds))
        .mark_rule(strokeDash=[5, 3], color=QUIET, strokeWidth=1.5)
        .encode(y="at:Q")
    )
    words = (
        alt.Chart(alt.Data(values=bounds))
        .mark_text(align="right", x="width", dx=-4, dy=-6, fontSize=11, color=QUIET)
        .encode(y="at:Q", text="line:N")
    )
    return _document(alt.layer(line, rules, words), height=230)


@dataclass(frozen=True)
class CurvePoint:
    """What an attack had recovered (a share) after so many forward-equivalents."""

    attack: str
    evaluations: int
    recovery: float


def curves(points: Sequence[CurvePoint]) -> dict[str, Any] | None:
    """Recovery against forward-equivalents spent, a line an attack; None without points."""
    points = [point for point in points if point.evaluations > 0]
    if not points:
        return None
    attacks = _names(point.attack for point in points)
    records = [
        {
            "attack": point.attack,
            "evaluations": point.evaluations,
            "recovery": round(point.recovery, 5),
        }
        for point in points
    ]
    chart = (
        alt.Chart(alt.Data(values=records))
        .mark_line(interpolate="step-after", strokeWidth=2)
        .encode(
            x=alt.X(
                "evaluations:Q",
                title="forward-equivalents an image",
                scale=alt.Scale(type="log", nice=False),
            ),
            y=alt.Y("recovery:Q", title="recovery, best so far", axis=alt.Axis(format=".0%")),
            color=_by_attack(attacks),
            strokeDash=_dashes(attacks),
            tooltip=[
                alt.Tooltip("attack:N"),
                alt.Tooltip("evaluations:Q"),
                alt.Tooltip("recovery:Q", format=".1%"),
            ],
        )
    )
    return _document(chart, height=300)


def front_lines(points: Sequence[FrontPoint]) -> dict[str, Any] | None:
    """Recovery against PSNR on one target, the cells of an attack joined; None without points."""
    if not points:
        return None
    attacks = _names(point.attack for point in points)
    records = [
        {"attack": point.attack, "psnr": round(point.psnr, 3), "recovery": round(point.recovery, 5)}
        for point in points
    ]
    base = alt.Chart(alt.Data(values=records)).encode(
        x=alt.X(
            "psnr:Q",
            title="pooled PSNR in dB (further right: harder to see)",
            scale=alt.Scale(zero=False, nice=True, padding=18),
        ),
        y=alt.Y("recovery:Q", title="recovery of the saved MACs", axis=alt.Axis(format=".0%")),
        color=_by_attack(attacks),
        tooltip=[
            alt.Tooltip("attack:N"),
            alt.Tooltip("psnr:Q", format=".1f"),
            alt.Tooltip("recovery:Q", format=".1%"),
        ],
    )
    lines = base.mark_line(strokeWidth=1.8).encode(strokeDash=_dashes(attacks))
    return _document(alt.layer(lines, base.mark_point(filled=True, size=60)), height=320)


def _by_attack(attacks: Sequence[str]) -> alt.Color:
    colours = [_SERIES[index % len(_SERIES)] for index in range(len(attacks))]
    return alt.Color(
        "attack:N",
        title="attack",
        sort=None,
        scale=alt.Scale(domain=list(attacks), range=colours),
        legend=_legend(),
    )


def _dashes(attacks: Sequence[str]) -> alt.StrokeDash:
    """Where colours come round again, lines are dashed."""
    rounds = ([1, 0], [6, 3], [2, 2])
    dashes = [rounds[(index // len(_SERIES)) % len(rounds)] for index in range(len(attacks))]
    return alt.StrokeDash(
        "attack:N",
        title="attack",
        sort=None,
        scale=alt.Scale(domain=list(attacks), range=dashes),
        legend=_legend(),
    )


def opening_rates(
    names: Sequence[str], clean: Sequence[float], adversarial: Sequence[float]
) -> dict[str, Any] | None:
    """The share of images on which each unit ran, clean and adversarial, in network order."""
    if not names:
        return None
    records = [
        {"order": index, "unit": name, "series": series, "rate": round(rate, 5)}
        for series, rates in (("clean", clean), ("adversarial", adversarial))
        for index, (name, rate) in enumerate(zip(names, rates, strict=True))
    ]
    spans = [
        {"order": index, "unit": name, "from": round(before, 5), "to": round(after, 5)}
        for index, (name, before, after) in enumerate(zip(names, clean, adversarial, strict=True))
    ]
    if len(names) <= _MOST_NAMES and len(set(names)) == len(names):
        x = alt.X(
            "unit:N",
            title=None,
            sort=None,
            axis=alt.Axis(labelAngle=-40, labelLimit=110, labelOverlap=True, grid=False),
        )
    else:
        x = alt.X(
            "order:Q",
            title="unit, in network order",
            axis=alt.Axis(tickMinStep=1, format="d", grid=False),
            scale=alt.Scale(padding=12),
        )
    joined = (
        alt.Chart(alt.Data(values=spans))
        .mark_rule(strokeWidth=3, opacity=0.45, color=QUIET)
        .encode(x=x, y=alt.Y("from:Q"), y2="to:Q")
    )
    dots = (
        alt.Chart(alt.Data(values=records))
        .mark_point(filled=True, size=64, opacity=0.95)
        .encode(
            x=x,
            y=alt.Y(
                "rate:Q",
                title="images on which it ran",
                axis=alt.Axis(format=".0%"),
                scale=alt.Scale(domain=[0, 1]),
            ),
            color=_two_series(),
            tooltip=[
                alt.Tooltip("unit:N"),
                alt.Tooltip("series:N"),
                alt.Tooltip("rate:Q", format=".1%"),
            ],
        )
    )
    return _document(alt.layer(joined, dots), height=270)


def still(document: dict[str, Any]) -> bytes:
    """The same chart as an SVG picture, for pages whose scripts are off."""
    import vl_convert

    fixed = {**document, "width": _STILL_WIDTH, "background": "white", "config": _STILL_CONFIG}
    return vl_convert.vegalite_to_svg(fixed).encode("utf-8")


def _document(chart: Any, *, height: int, validate: bool = False) -> dict[str, Any]:
    sized = chart.properties(
        width="container",
        height=height,
        autosize=alt.AutoSizeParams(type="fit", contains="padding"),
    )
    return dict(sized.to_dict(validate=validate))


def _two_series() -> alt.Color:
    scale = alt.Scale(domain=["clean", "adversarial"], range=[CLEAN, ADVERSARIAL])
    return alt.Color("series:N", title=None, scale=scale, legend=_legend())


def _legend() -> alt.Legend:
    return alt.Legend(
        orient="bottom",
        direction="horizontal",
        columns=3,
        labelLimit=200,
        titleOrient="left",
        symbolOpacity=1,
    )


def _unit(largest: float) -> tuple[int, str]:
    for size, name in ((10**12, "TMAC"), (10**9, "GMAC"), (10**6, "MMAC"), (10**3, "kMAC")):
        if largest >= size:
            return size, name
    return 1, "MAC"


def _names(labels: Any) -> list[str]:
    """Each once, in the order of first appearance."""
    return list(dict.fromkeys(labels))
