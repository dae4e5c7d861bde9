"""A chart on a page: its document with cleaned strings, and the still picture for pages without scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reports.html import charts
from reports.html.encode import clean


@dataclass(frozen=True)
class Chart:
    """A chart of a page: its document, and the still picture that stands in where scripts are off."""

    name: str
    still: str
    alt: str
    document: Mapping[str, Any]


def chart(
    name: str, still: str, alt: str, document: dict[str, Any] | None
) -> tuple[Chart | None, bytes]:
    if document is None:
        return None, b""
    tidy = _clean_values(document)
    return Chart(name, still, alt, tidy), charts.still(tidy)


def _clean_values(value: Any) -> Any:
    """The document with its strings cleaned, before either picture is drawn from it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {key: _clean_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_clean_values(entry) for entry in value]
    return value
