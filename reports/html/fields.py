"""Entries of tables: what is shown, what stands below, what it sorts by, where it leads."""

from __future__ import annotations

from dataclasses import dataclass

from bench.results.records import BoardCell
from bench.results.stats import Estimate
from reports import numbers


@dataclass(frozen=True)
class Field:
    """One entry of a row: what is shown, what stands small below it, what it sorts by (None sorts
    last).
    """

    text: str
    below: str = ""
    sort: float | str | None = None


@dataclass(frozen=True)
class Link:
    """A table entry that leads to a page of the same report, given from the report's root."""

    text: str
    page: str
    below: str = ""


Entry = Field | Link


def estimate_field(estimate: Estimate) -> Field:
    """A share with its interval below."""
    return Field(numbers.percent(estimate.value), numbers.interval(estimate), estimate.value)


def psnr_field(cell: BoardCell) -> Field:
    """The pooled PSNR; below it the mean of the images that changed, where that differs visibly."""
    pooled, mean = cell.overall_psnr, cell.changed_psnr
    apart = pooled is not None and mean is not None and abs(pooled - mean) >= 0.1
    return Field(numbers.decibel(pooled), changed_words(cell) if apart else "", pooled)


def changed_words(cell: BoardCell) -> str:
    """The mean PSNR of the images that changed, and how many did not."""
    if cell.changed_psnr is None:
        return "no image changed"
    same = f", {cell.unchanged} of {cell.n} unchanged" if cell.unchanged else ""
    return f"mean {numbers.decibel(cell.changed_psnr)}{same}"
