"""The verdict of a check as people and machines read it: a table in the terminal, Markdown, JSON,
JUnit XML.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.table import Table
from rich.text import Text

from bench.contracts.report import RegressionReport
from bench.regression.verdict import CheckedMeasure, CheckResult
from bench.results.limits import exact
from bench.results.records import defended_name
from bench.terminal import LONGEST_LINE, FittedColumn, FittedTable, one_line, percent
from reports import junit, numbers
from reports.markdown import markdown
from reports.tables import console

COLUMNS = (
    ("Verdict", False),
    ("Cell", False),
    ("Measure", False),
    ("Before", True),
    ("Now", True),
    ("Change, points", True),
    ("May lose", True),
    ("p", True),
)


class Verdicts(RegressionReport):
    """What `gatebench check` found, in every form. Pure: the same verdict gives the same text."""

    def terminal(self, verdict: CheckResult) -> None:
        """Print a table a target, what changed beside the numbers, and last the summary."""
        out = console()
        for name, comparisons in groupby(verdict.comparisons, key=_target):
            out.print(Text(one_line(name, LONGEST_LINE), style="bold"))
            out.print(_table(list(comparisons), out.width))
        for note in verdict.notes:
            out.print(Text(f"note: {one_line(note, LONGEST_LINE)}", style="yellow"))
        out.print(
            Text(
                one_line(verdict.summary(), LONGEST_LINE),
                style="bold green" if verdict.passed else "bold red",
            ),
            soft_wrap=True,
        )

    def markdown(self, verdict: CheckResult) -> str:
        """A comment on a pull request, what got worse first."""
        ordered = sorted(verdict.comparisons, key=lambda one: not one.failed)
        rows = [[*_head(one), *_numbers(one)] for one in ordered]
        title = (
            "gatebench check: pass" if verdict.passed else "gatebench check: something got worse"
        )
        return markdown(title, verdict.summary(), COLUMNS, rows, verdict.notes)

    def junit(self, verdict: CheckResult) -> bytes:
        """JUnit XML; see `reports.junit`."""
        return junit.junit(verdict)

    def json(self, verdict: CheckResult) -> str:
        """Everything, in the order of the plan."""
        document = {
            "schema": 1,
            "passed": verdict.passed,
            "summary": verdict.summary(),
            "alpha": verdict.alpha,
            "notes": list(verdict.notes),
            "comparisons": [vars(one) for one in verdict.comparisons],
        }
        return _json(document)

    def refused(self, message: str) -> tuple[bytes, str, str]:
        """(JUnit, JSON, Markdown) of a check that did not come about."""
        document = {"schema": 1, "passed": False, "refused": message}
        return (
            junit.refused(message),
            _json(document),
            markdown("gatebench check: refused", message, (), (), ()),
        )


def _json(document: Any) -> str:
    return (
        json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    )


def _target(one: CheckedMeasure) -> str:
    name = defended_name(one.target, one.defense)
    return f"{name} ({one.board})" if one.board else name


def _head(one: CheckedMeasure) -> list[str]:
    return [one.verdict, one.label, one.measure.replace("-", " ")]


def _numbers(one: CheckedMeasure) -> list[str]:
    """Before, now, change with interval, what may be lost, p."""
    same = one.worse == one.low == one.high == 0
    change, low, high = (
        numbers.signed(-100 * end, one.places) for end in (one.worse, one.high, one.low)
    )
    tested = f"{one.p:.2g}" if one.too_much else ""
    return [
        percent(one.before, one.places),
        percent(one.now, one.places),
        "unchanged" if same else f"{change} [{low}, {high}]",
        exact(100 * one.effect),
        tested,
    ]


_TABLE = (
    FittedColumn("", name=True),
    FittedColumn("attack", name=True),
    FittedColumn("measure", name=True),
    FittedColumn("before", 3),
    FittedColumn("now", 2),
    FittedColumn("change, points"),
    FittedColumn("may lose", 4),
    FittedColumn("p", 1),
)


def _table(comparisons: Sequence[CheckedMeasure], width: int) -> Table:
    rows = [
        [
            "WORSE" if one.failed else one.verdict,
            one.attack or "-",
            one.measure.replace("-", " "),
            *_numbers(one),
        ]
        for one in comparisons
    ]
    styles = ["bold red" if one.failed else "" for one in comparisons]
    return FittedTable(_TABLE, rows, width).table(styles=styles)
