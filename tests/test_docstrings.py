"""The examples in docstrings do what they show, and public docstrings can be read by a generator."""

import doctest
import importlib
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


HAVE_EXAMPLES = {"bench.image"}
"""What people call from a notebook."""


@pytest.mark.parametrize("name", sorted(HAVE_EXAMPLES))
def test_what_people_call_has_an_example(name):
    module = importlib.import_module(name)
    missing = [
        each
        for each, value in vars(module).items()
        if not each.startswith("_")
        and getattr(value, "__module__", None) == name
        and callable(value)
        and ">>> " not in (value.__doc__ or "")
    ]
    assert not missing
