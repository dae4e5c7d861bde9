"""What the charts have in common: colors, channels, legends, the frame of a document, still
pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Document = dict[str, Any]
"""A Vega-Lite document, or a part of one."""

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

CLEAN, ADVERSARIAL, QUIET, MARK = "#2c70ba", "#e0661a", "#8a93a3", "#c2255c"
"""Legible on white and on near-black alike."""
SERIES = (
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
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")

PERCENT = {"format": ".0%"}
_STILL_WIDTH = 640
_STILL_CONFIG = {
    "legend": {
        "layout": {"bottom": {"anchor": "start", "direction": "vertical"}},
        "titleFontWeight": "normal",
    },
    "axis": {"titleFontWeight": "normal"},
}


def document(*layers: Document, height: int) -> Document:
    """The document of one chart, or of several layers over each other."""
    frame: Document = {
        "$schema": SCHEMA,
        "width": "container",
        "height": height,
        "autosize": {"type": "fit", "contains": "padding"},
    }
    return frame | (layers[0] if len(layers) == 1 else {"layer": list(layers)})


def layer(
    values: Sequence[Mapping[str, Any]], mark: str, encoding: Document, **of_mark: Any
) -> Document:
    """One kind of mark over its own values."""
    return {
        "data": {"values": list(values)},
        "mark": {"type": mark, **of_mark},
        "encoding": encoding,
    }


def number(field: str, **more: Any) -> Document:
    """A channel with numbers."""
    return {"field": field, "type": "quantitative", **more}


def name(field: str, **more: Any) -> Document:
    """A channel with names."""
    return {"field": field, "type": "nominal", **more}


def legend() -> Document:
    """A legend below the chart."""
    return {
        "orient": "bottom",
        "direction": "horizontal",
        "columns": 3,
        "labelLimit": 200,
        "titleOrient": "left",
        "symbolOpacity": 1,
    }


def scaled(field: str, title: str | None, domain: Sequence[str], values: Sequence[Any]) -> Document:
    """A channel that gives each name of `domain`, in this order, its value."""
    scale = {"domain": list(domain), "range": list(values)}
    return name(field, title=title, sort=None, scale=scale, legend=legend())


def two_series() -> Document:
    """Color: clean and adversarial."""
    return scaled("series", None, ("clean", "adversarial"), (CLEAN, ADVERSARIAL))


MOST_COLORED = len(SERIES)
"""Attacks of one chart that have a color; more cannot be told apart."""


def colored(attacks: Sequence[str], leading: Iterable[str]) -> list[str]:
    """The attacks that get a color of their own, in their order: all where they are few, else those
    that lead, as many as there are colors.

    Args:
        attacks: of the chart.
        leading: the ones that matter most, first.
    """
    if len(attacks) <= MOST_COLORED:
        return list(attacks)
    kept = each_once(name for name in leading if name in attacks)[:MOST_COLORED]
    return [name for name in attacks if name in kept]


def by_attack(attacks: Sequence[str], named: Sequence[str]) -> Document:
    """Color: one for each attack of `named`, which the legend names; gray for the rest."""
    colors = dict(zip(named, SERIES, strict=False))
    channel = scaled("attack", "attack", attacks, [colors.get(name, QUIET) for name in attacks])
    if len(named) < len(attacks):
        channel["legend"] = {**legend(), "values": list(named)}
    if len(attacks) > MOST_COLORED:
        channel["legend"]["title"] = "attack; the others gray"
    return channel


def macs_unit(largest: float) -> tuple[int, str]:
    """(size, name) of the unit in which numbers up to `largest` MACs are read easily."""
    for size, called in ((10**12, "TMAC"), (10**9, "GMAC"), (10**6, "MMAC"), (10**3, "kMAC")):
        if largest >= size:
            return size, called
    return 1, "MAC"


def each_once(labels: Iterable[str]) -> list[str]:
    """Each label once, in the order of first appearance."""
    return list(dict.fromkeys(labels))


def still(document: Document) -> bytes:
    """The same chart as an SVG picture, for pages whose scripts are off."""
    import vl_convert

    width = {} if "concat" in document else {"width": _STILL_WIDTH}
    fixed = {**document, **width, "background": "white", "config": _STILL_CONFIG}
    return vl_convert.vegalite_to_svg(fixed).encode("utf-8")
