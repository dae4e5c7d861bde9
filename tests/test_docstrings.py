"""The examples in docstrings do what they show, and what people call has one."""

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("bench", "attacks", "targets", "reports")
SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
WITH_EXAMPLES = [path for path in SOURCES if "    >>> " in path.read_text(encoding="utf-8")]


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=module_name)
def test_examples_do_what_they_show(path):
    found = doctest.testmod(
        importlib.import_module(module_name(path)), optionflags=doctest.NORMALIZE_WHITESPACE
    )
    assert found.attempted
    assert not found.failed


CALLED = (
    "bench.image",
    "bench.results.paired",
    "bench.results.stats",
    "bench.contracts.threat",
    "bench.testing.target",
    "bench.testing.attack",
    "bench.testing.defense",
)
"""Modules whose public functions people call from a notebook or a test."""


@pytest.mark.parametrize("name", CALLED)
def test_what_people_call_has_an_example(name):
    module = importlib.import_module(name)
    missing = [
        each
        for each, value in vars(module).items()
        if not each.startswith("_")
        and inspect.isfunction(value)
        and value.__module__ == name
        and ">>> " not in (value.__doc__ or "")
    ]
    assert not missing
