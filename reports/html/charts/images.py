"""What the images of a cell execute: histogram, share finished by cost, opening rates of units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reports.html.charts.style import (
    PERCENT,
    QUIET,
    Document,
    document,
    layer,
    macs_unit,
    name,
    number,
    two_series,
)

_MOST_NAMES = 24
"""Units named along an axis at most; beyond, they are numbered."""
_SHARE = {"axis": PERCENT, "scale": {"domain": [0, 1]}}


def distribution(
    clean: Sequence[int], adversarial: Sequence[int], floor: int, ceiling: int, *, bins: int = 30
) -> Document | None:
    """Executed MACs of the images, clean and adversarial, between the lines of floor and ceiling.

    Args:
        clean: MACs of each clean image.
        adversarial: MACs of each adversarial image.
        floor: MACs of the target's cheapest decisions.
        ceiling: MACs of its dearest.
        bins: of the histogram.

    Returns:
        The document; None without images.
    """
    values = [*clean, *adversarial]
    if not values:
        return None
    unit, called = macs_unit(max(ceiling, *values))
    low, high = min(floor, *values), max(ceiling, *values)
    step = max(high - low, 1) / bins
    records = []
    for series, found in (("clean", clean), ("adversarial", adversarial)):
        counts = Counter(min(bins - 1, int((value - low) / step)) for value in found)
        records += [
            {
                "series": series,
                "from": round((low + index * step) / unit, 6),
                "to": round((low + (index + 1) * step) / unit, 6),
                "images": counts[index],
                "base": 0,
            }
            for index in sorted(counts)
        ]
    named = [("floor", floor), ("ceiling", ceiling)]
    bounds = [
        {"line": line, "at": round(at / unit, 6)}
        for line, at in (named if floor != ceiling else [("floor = ceiling", floor)])
    ]
    bars = {
        "x": number(
            "from",
            title=f"executed MACs of an image, {called}",
            scale={"zero": False, "nice": False, "padding": 14},
        ),
        "x2": {"field": "to"},
        "y": number("images", title="images", axis={"tickMinStep": 1}, scale={"zero": True}),
        "y2": {"field": "base"},
        "color": two_series(),
        "tooltip": [
            name("series"),
            number("images"),
            number("from", format=".4~f"),
            number("to", format=".4~f"),
        ],
    }
    at = number("at")
    return document(
        layer(records, "rect", bars, opacity=0.72),
        layer(bounds, "rule", {"x": at}, strokeDash=[5, 3], color=QUIET, strokeWidth=1.5),
        layer(
            bounds, "text", {"x": at, "text": name("line")}, dy=-6, y=0, fontSize=11, color=QUIET
        ),
        height=230,
    )


def finished(
    clean: Sequence[int], adversarial: Sequence[int], floor: int, ceiling: int
) -> Document | None:
    """The share of images finished by each cost; the area under a curve is its efficacy.

    Args:
        clean: MACs of each clean image.
        adversarial: MACs of each adversarial image.
        floor: where cost is 0.
        ceiling: where cost is 1.

    Returns:
        The document; None without images, or where floor and ceiling are the same.
    """
    if not clean or floor >= ceiling:
        return None
    records = []
    for series, found in (("clean", clean), ("adversarial", adversarial)):
        done = Counter(found)
        steps, total = [(0.0, 0.0)], 0
        for cost in sorted(done):
            total += done[cost]
            steps.append(((cost - floor) / (ceiling - floor), total / len(found)))
        records += [
            {"series": series, "cost": round(cost, 5), "share": round(share, 5)}
            for cost, share in (*_thinned(steps), (1.0, 1.0))
        ]
    where = {
        "x": number("cost", title="cost, from the floor to the ceiling", **_SHARE),
        "y": number("share", title="images finished", **_SHARE),
        "color": two_series(),
        "tooltip": [name("series"), number("cost", format=".1%"), number("share", format=".1%")],
    }
    return document(
        layer(records, "line", where, interpolate="step-after", strokeWidth=2), height=230
    )


_MOST_STEPS = 200
"""Steps of a curve at most: more than a page has pixels for is size alone."""


def _thinned(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(steps) <= _MOST_STEPS:
        return steps
    last = len(steps) - 1
    return [steps[round(i * last / (_MOST_STEPS - 1))] for i in range(_MOST_STEPS)]


def opening_rates(
    names: Sequence[str], clean: Sequence[float], adversarial: Sequence[float]
) -> Document | None:
    """The share of images on which each unit ran, clean and adversarial, in network order.

    Args:
        names: of the units.
        clean: the share of each.
        adversarial: the same under attack.

    Returns:
        The document; None without units.
    """
    if not names:
        return None
    units = [
        {"order": index, "unit": unit, "clean": round(before, 4), "adversarial": round(after, 4)}
        for index, (unit, before, after) in enumerate(zip(names, clean, adversarial, strict=True))
    ]
    if len(names) <= _MOST_NAMES and len(set(names)) == len(names):
        axis: Document = {"labelAngle": -40, "labelLimit": 110, "labelOverlap": True, "grid": False}
        x = name("unit", title=None, sort=None, axis=axis)
    else:
        axis = {"tickMinStep": 1, "format": "d", "grid": False}
        x = number("order", title="unit, in network order", axis=axis, scale={"padding": 12})
    dots = {
        "x": x,
        "y": number("rate", title="images on which it ran", **_SHARE),
        "color": two_series(),
        "tooltip": [name("unit"), name("series"), number("rate", format=".1%")],
    }
    joined = {"x": x, "y": number("clean"), "y2": {"field": "adversarial"}}
    points = layer(units, "point", dots, filled=True, size=64, opacity=0.95)
    spans = layer(units, "rule", joined, strokeWidth=3, opacity=0.45, color=QUIET)
    del points["data"], spans["data"]
    points["transform"] = [{"fold": ["clean", "adversarial"], "as": ["series", "rate"]}]
    return {**document(spans, points, height=270), "data": {"values": units}}
