"""A chart on a page: its document with cleaned strings, and its still picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.html import charts
from reports.html.cache import RenderCache
from reports.html.charts import Document
from reports.html.encode import clean, encode_json


@dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        name: unique on the page.
        alt: what it shows, for those who cannot see it.
        document: a Vega-Lite document.
        still: file of the picture that stands in where scripts are off; "" where words do.
    """

    name: str
    alt: str
    document: Document
    still: str = ""


def chart(name: str, alt: str, document: Document | None, still: str = "") -> Chart | None:
    """The chart of a document; None where there is none."""
    return None if document is None else Chart(name, alt, _clean_values(document), still)


def still_picture(chart: Chart, cache: RenderCache) -> bytes:
    """The SVG picture of a chart, drawn once for the same document."""
    made = cache.files(
        ["still", encode_json(chart.document)], lambda: [("still", charts.still(chart.document))]
    )
    return made[0][1]


def _clean_values(value: Any) -> Any:
    """The document with its strings cleaned, before either picture is drawn from it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: _clean_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_values(entry) for entry in value]
    return value
