"""The page of what changed in a publication since the version before."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from bench.results.history import FILE, History, RowChange, Version, changes
from bench.terminal import counted
from reports import numbers
from reports.html.fields import Field
from reports.html.sections import Section, SectionPage

_SHOWN = 12
"""Versions whose changes stand on the page; all are in the file."""


def history_page(history: History) -> SectionPage | None:
    """The page of what changed; None where there is one version."""
    pairs = list(pairwise(history.versions))
    if not pairs:
        return None
    return SectionPage(
        path="history.html",
        title="What changed",
        lead=(
            f"{len(history.versions)} versions of this publication, the latest first. All tables "
            f"are in {FILE}."
        ),
        sections=[_section(before, now) for before, now in reversed(pairs[-_SHOWN:])],
        teaser="every row that differs from the version before, and why",
    )


def _section(before: Version, now: Version) -> Section:
    found = changes(before, now)
    return Section(
        heading=f"{before.name} → {now.name}",
        note=f"{len(found)} of {counted(len(now.rows), 'row')} differ.",
        columns=(
            ("Board", False),
            ("Row", False),
            ("Recovery before", True),
            ("Recovery now", True),
            ("MACs before", True),
            ("MACs now", True),
            ("Why", False),
        ),
        rows=[[Field(entry) for entry in _entries(change)] for change in found],
    )


def _entries(change: RowChange) -> Iterator[str]:
    one = change.now or change.before
    assert one is not None
    yield one.board
    yield one.row
    for row in (change.before, change.now):
        yield numbers.DASH if row is None else numbers.percent(row.recovery)
    for row in (change.before, change.now):
        yield numbers.DASH if row is None else numbers.macs(row.macs)
    yield change.why
