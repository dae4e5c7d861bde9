"""A plugin of pytest that refuses cases whose name pytest would make of their place in a list.

A name such as `change3` says nothing, and means another case as soon as one is put before it.
"""

import enum
import re

import pytest

_SAID = (str, bytes, int, float, complex, bool, enum.Enum, re.Pattern)
"""What pytest makes names of that hold the value."""


def pytest_make_parametrize_id(config, val, argname):
    """Asked for each value of a case that has no name of its own."""
    name = getattr(val, "__name__", "")  # of classes and functions; that of a lambda is "<lambda>"
    if val is None or isinstance(val, _SAID) or (isinstance(name, str) and name.isidentifier()):
        return
    pytest.fail(
        f'{argname} = {val!r:.80} has no name: write pytest.param(…, id="…") or ids=str',
        pytrace=False,
    )
