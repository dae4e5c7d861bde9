"""Comparisons and verdicts as people read them: Markdown for a pull request, a table for the terminal, JUnit XML for a CI system."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from bench.comparing import Comparison
from bench.regression import Comparison as Held
from bench.regression import Verdict
from bench.stats import Estimate

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")

CHANGES = ("Cell", "Images", "Dearer", "Cheaper", "MACs, points", "p", "Clean MACs", "Acc.")
HELD = ("", "Cell", "Measure", "Before", "Now", "Worse by", "Allowed", "p")


def change_rows(comparison: Comparison) -> list[list[str]]:
    """One row a cell, under `CHANGES`."""
    return [
        [
            change.label,
            str(len(change.ids)),
            str(change.dearer),
            str(change.cheaper),
            _points(change.cost),
            f"{change.p:.2g}",
            _points(change.clean_cost),
            f"{100 * change.accuracy:+.1f}",
        ]
        for change in comparison.changes
    ]


def held_rows(verdict: Verdict) -> list[list[str]]:
    """One row a comparison, under `HELD`."""
    return [
        [
            "worse" if one.failed else "ok",
            one.label,
            one.measure,
            f"{100 * one.before:.1f} %",
            f"{100 * one.now:.1f} %",
            f"{100 * one.worse:+.1f} [{100 * one.low:+.1f}, {100 * one.high:+.1f}]",
            f"{100 * one.effect:g}",
            f"{one.p:.2g}",
        ]
        for one in verdict.comparisons
    ]


def change_lines(comparison: Comparison) -> list[str]:
    """Two lines a cell, for the terminal."""
    lines = []
    for label, images, dearer, cheaper, cost, p, clean, accuracy in change_rows(comparison):
        lines.append(label)
        lines.append(
            f"  {images} images, {dearer} dearer, {cheaper} cheaper; MACs {cost} points, p {p}; clean {clean}; accuracy {accuracy}"
        )
    return lines


def held_lines(verdict: Verdict) -> list[str]:
    """One line a comparison, what got worse first."""
    ordered = sorted(verdict.comparisons, key=lambda one: not one.failed)
    return [f"{'WORSE' if one.failed else 'ok   '} {one.words}" for one in ordered]


def tell(title: str, lines: Sequence[str], notes: Sequence[str]) -> None:
    """To the terminal, long lines folded at words."""
    console = Console(highlight=False)
    console.print(escape(_plain(title)), style="bold")
    for line in lines:
        console.print(escape(_plain(line)), style="bold red" if line.startswith("WORSE") else None)
    for note in notes:
        console.print(escape(_plain(note)), style="yellow")


def markdown(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """As a comment on a pull request."""
    lines = [f"### {_cell(title)}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    lines += [f"| {' | '.join(_cell(text) for text in row)} |" for row in rows]
    return "\n".join([*lines, "", *(f"- {_cell(note)}" for note in notes)]).rstrip() + "\n"


def junit(verdict: Verdict) -> bytes:
    """One test case a comparison; no times, so the same verdict gives the same bytes."""
    suite = ET.Element(
        "testsuite",
        name="gatebench check",
        tests=str(len(verdict.comparisons)),
        failures=str(len(verdict.failures)),
        errors="0",
        skipped="0",
    )
    for one in verdict.comparisons:
        case = ET.SubElement(suite, "testcase", classname=_plain(one.label), name=one.measure)
        numbers = ET.SubElement(case, "properties")
        for name, value in _numbers(one).items():
            ET.SubElement(numbers, "property", name=name, value=str(value))
        if one.failed:
            failure = ET.SubElement(case, "failure", message=_plain(one.words), type="regression")
            failure.text = _plain(one.words)
    if verdict.notes:
        ET.SubElement(suite, "system-out").text = _plain("\n".join(verdict.notes))
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="utf-8") + b"\n"


def verdict_document(verdict: Verdict) -> dict[str, Any]:
    """As JSON."""
    return {
        "schema": 1,
        "passed": verdict.passed,
        "summary": verdict.summary(),
        "alpha": verdict.alpha,
        "notes": list(verdict.notes),
        "comparisons": [
            {
                "target": one.target,
                "defense": one.defense,
                "attack": one.attack,
                "measure": one.measure,
                "failed": one.failed,
                **_numbers(one),
            }
            for one in verdict.comparisons
        ],
    }


def _numbers(one: Held) -> dict[str, Any]:
    return {name: getattr(one, name) for name in ("before", "now", "worse", "low", "high", "effect", "p", "images")}


def _points(estimate: Estimate) -> str:
    if estimate.value is None:
        return "-"
    return f"{100 * estimate.value:+.2f} [{100 * (estimate.low or 0):+.2f}, {100 * (estimate.high or 0):+.2f}]"


def _plain(text: str) -> str:
    return _CONTROL.sub("?", text)


def _cell(text: str) -> str:
    """Safe inside a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>|#~])", r"\\\1", _plain(text).replace("\n", " ").replace("\r", " "))
