"""The verdict of a check as JUnit XML, which CI systems show: one test case a comparison.

No times and no host: the same verdict gives the same bytes.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from bench.regression.verdict import CheckedMeasure, CheckResult
from reports.html.encode import clean

SUITE = "gatebench check"
NUMBERS = ("before", "now", "worse", "low", "high", "effect", "p", "images")
"""What a test case has as properties."""


def junit(verdict: CheckResult) -> bytes:
    """One test case a comparison, by cell and measure; what got worse has a failure in words. Notes
    are the suite's output.
    """
    suite = ET.Element(
        "testsuite",
        name=SUITE,
        tests=str(len(verdict.comparisons)),
        failures=str(len(verdict.failures)),
        errors="0",
    )
    properties = ET.SubElement(suite, "properties")
    ET.SubElement(properties, "property", name="alpha", value=str(verdict.alpha))
    for comparison in verdict.comparisons:
        suite.append(_case(comparison))
    ET.SubElement(suite, "system-out").text = clean("\n".join([*verdict.notes, verdict.summary()]))
    return _written(suite)


def refused(message: str) -> bytes:
    """A check that did not come about: one test case with an error, so that no older file is taken
    for its result.
    """
    suite = ET.Element("testsuite", name=SUITE, tests="1", failures="0", errors="1")
    case = ET.SubElement(suite, "testcase", classname="baseline", name="comparable")
    ET.SubElement(
        case, "error", message=clean(message.splitlines()[0]), type="refused"
    ).text = clean(message)
    return _written(suite)


def _case(comparison: CheckedMeasure) -> ET.Element:
    case = ET.Element("testcase", classname=clean(comparison.label), name=clean(comparison.measure))
    properties = ET.SubElement(case, "properties")
    for name in NUMBERS:
        ET.SubElement(properties, "property", name=name, value=str(getattr(comparison, name)))
    if comparison.failed:
        ET.SubElement(
            case, "failure", message=clean(comparison.words), type="regression"
        ).text = clean(comparison.words)
    return case


def _written(suite: ET.Element) -> bytes:
    root = ET.Element("testsuites")
    root.append(suite)
    ET.indent(root)
    text: bytes = ET.tostring(root, encoding="utf-8")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + text + b"\n"
