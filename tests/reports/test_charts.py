"""Chart documents: valid Vega-Lite, data only, and right."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

import altair as alt
import pytest

from reports.html import charts
from reports.html.charts import FrontPoint, TracePoint


def point(
    attack: str,
    psnr: float,
    recovery: float,
    *,
    target: str = "net",
    control: bool = False,
    marked: bool = False,
) -> FrontPoint:
    return FrontPoint(
        target, attack, control, psnr, recovery, recovery - 0.1, recovery + 0.1, marked
    )


POINTS = [
    point("strong", 35.0, 0.8),
    point("weak", 36.0, 0.4),
    point("gentle", 45.0, 0.3),
    point("noise", 50.0, 0.35, control=True, marked=True),
]

DOCUMENTS = [
    pytest.param(charts.front(POINTS), id="front"),
    pytest.param(charts.distribution([5, 6, 6], [9, 10, 10], 2, 10), id="distribution"),
    pytest.param(charts.finished([5, 6, 6], [9, 10, 10], 2, 10), id="finished"),
    pytest.param(charts.trace([TracePoint(0, 5.0), TracePoint(10, 9.0)], 2, 10, 5.0), id="trace"),
    pytest.param(charts.opening_rates(["a", "b"], [0.1, 0.2], [0.5, 0.9]), id="rates"),
    pytest.param(
        charts.opening_rates([str(i) for i in range(40)], [0.1] * 40, [0.5] * 40), id="many-rates"
    ),
]


MANY = [
    point(f"attack {i}", 34 + i / 10, 0.01 * i + (0.2 if i % 10 == 7 else 0), target=f"net {i % 4}")
    for i in range(80)
]


def test_many_points_of_several_targets_get_a_panel_each() -> None:
    found = charts.front(MANY)
    assert found is not None
    alt.ConcatChart.from_dict(found)
    assert [panel["title"]["text"] for panel in found["concat"]] == [f"net {i}" for i in range(4)]
    drawn = [
        record
        for panel in found["concat"]
        for part in panel["layer"]
        if part["mark"]["type"] == "point"
        for record in part["data"]["values"]
    ]
    assert len(drawn) == len(MANY)
    axes = {
        json.dumps(part["encoding"][axis]["scale"])
        for panel in found["concat"]
        for part in panel["layer"]
        for axis in "xy"
    }
    assert len(axes) == 2  # all panels on the same two axes


def test_of_many_attacks_those_in_front_have_colors_and_the_rest_are_gray() -> None:
    alone = [replace(one, target="net") for one in MANY[:30]]
    found = charts.front(alone, by_target=False)
    assert found is not None
    color = next(
        part["encoding"]["color"] for part in found["layer"] if "color" in part["encoding"]
    )
    named = color["legend"]["values"]
    assert len(named) == len(set(named)) == 10
    colors = dict(zip(color["scale"]["domain"], color["scale"]["range"], strict=True))
    assert len({colors[name] for name in named}) == 10
    assert {colors[one.attack] for one in alone if one.attack not in named} == {"#8a93a3"}
    front = {one.attack for one in charts.undominated(alone)}
    assert front <= set(named) or len(front) > 10
    said = {
        record["attack"]
        for part in found["layer"]
        if part["mark"]["type"] == "text"
        for record in part["data"]["values"]
    }
    assert said
    assert said <= front


def test_no_name_lies_across_the_axis() -> None:
    found = charts.front([*POINTS, point("faint", 48.0, 0.1)])
    assert found is not None
    sides = {
        record["attack"]: part["mark"]["align"]
        for part in found["layer"]
        if part["mark"]["type"] == "text"
        for record in part["data"]["values"]
    }
    assert sides == {"strong": "left", "weak": "left", "gentle": "right", "faint": "right"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_are_valid_and_ask_nothing_of_the_network(document: dict[str, Any]) -> None:
    alt.Chart.from_dict(document) if "layer" not in document else alt.LayerChart.from_dict(document)
    text = json.dumps(document)
    assert not re.search(r'"(url|href|expr|signal|calculate|filter|labelExpr|params)"', text)
    assert set(re.findall(r"https?://[^\"]*", text)) <= {document["$schema"]}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_stills_are_pictures_without_scripts(document: dict[str, Any]) -> None:
    drawn = ElementTree.fromstring(charts.still(document))
    names = {element.tag.rpartition("}")[2] for element in drawn.iter()}
    assert (
        {"svg", "path", "text"}
        <= names
        <= {
            "svg",
            "g",
            "path",
            "text",
            "rect",
            "line",
            "defs",
            "clipPath",
            "linearGradient",
            "stop",
        }
    )


def test_the_same_chart_twice_is_the_same_document() -> None:
    assert charts.front(POINTS) == charts.front(POINTS)
    assert charts.trace([TracePoint(0, 5.0)], 2, 10, 5.0) == charts.trace(
        [TracePoint(0, 5.0)], 2, 10, 5.0
    )


def test_nothing_to_draw_is_no_chart() -> None:
    assert charts.front([]) is None
    assert charts.distribution([], [], 1, 2) is None
    assert charts.finished([], [], 1, 2) is None
    assert charts.finished([2], [2], 2, 2) is None
    assert charts.trace([], 1, 2, 1.0) is None
    assert charts.opening_rates([], [], []) is None


def test_the_front_keeps_what_no_other_beats() -> None:
    kept = charts.undominated([*POINTS[:3], point("beaten", 34.0, 0.7), point("equal", 45.0, 0.3)])
    assert [(one.attack, one.psnr) for one in kept] == [
        ("equal", 45.0),
        ("weak", 36.0),
        ("strong", 35.0),
    ]


def test_controls_are_drawn_but_are_no_part_of_the_front() -> None:
    document = charts.front(POINTS)
    assert document is not None
    line, ring = document["layer"][0], document["layer"][-1]
    assert [entry["psnr"] for entry in line["data"]["values"]] == [45.0, 36.0, 35.0]
    assert [entry["attack"] for entry in ring["data"]["values"]] == ["noise"]
    assert [entry["attack"] for entry in document["layer"][2]["data"]["values"]] == [
        "strong",
        "weak",
        "gentle",
        "noise",
    ]


def test_every_image_is_in_the_histogram_once() -> None:
    clean, adversarial = [3_000_000, 4_000_000, 4_000_001], [9_999_999, 10_000_000]
    document = charts.distribution(clean, adversarial, 2_000_000, 10_000_000, bins=8)
    assert document is not None
    bars, lines = document["layer"][0]["data"]["values"], document["layer"][1]["data"]["values"]
    totals = {
        series: sum(bar["images"] for bar in bars if bar["series"] == series)
        for series in ("clean", "adversarial")
    }
    assert totals == {"clean": 3, "adversarial": 2}
    assert [
        (bar["from"], bar["to"], bar["images"]) for bar in bars if bar["series"] == "clean"
    ] == [(3.0, 4.0, 1), (4.0, 5.0, 2)]
    assert [(line["line"], line["at"]) for line in lines] == [("floor", 2.0), ("ceiling", 10.0)]


def test_a_network_that_cannot_save_has_one_line() -> None:
    document = charts.distribution([7, 7], [7, 7], 7, 7)
    assert document is not None
    assert [line["line"] for line in document["layer"][1]["data"]["values"]] == ["floor = ceiling"]


def test_images_finished_by_cost() -> None:
    document = charts.finished([2, 6, 6, 10], [10, 10, 10, 10], 2, 10)
    assert document is not None
    rows = [
        (row["cost"], row["share"])
        for row in document["data"]["values"]
        if row["series"] == "clean"
    ]
    assert rows == [(0.0, 0.0), (0.0, 0.25), (0.5, 0.75), (1.0, 1.0), (1.0, 1.0)]
