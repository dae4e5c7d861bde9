"""What a source file names: imports at any depth, environment variables, files."""

import pytest

from bench.plugins.mentions import Mentions, mentions

SOURCE = """
import os, one
from os import environ as env, getenv
from .near import a, b
from . import c
from ..far import *

def late():
    import two.three
    importlib.import_module("four")
    importlib.import_module(".relative")
    return os.environ["A"], environ.get("B", "x.y"), getenv("C"), "D" in os.environ, os.environ[k]

F = open("table.json"), "no name", "a\\nb.c"
"""


def test_names_are_found_wherever_they_are_written_out(tmp_path):
    path = tmp_path / "core.py"
    path.write_text(SOURCE)
    found = mentions(path, "top.mid.core")
    assert found.variables == {"A", "B", "C", "D"}
    own = {
        name for name in found.modules if name.partition(".")[0] in ("top", "one", "two", "four")
    }
    assert own == {
        "one",
        "two.three",
        "four",
        "top.mid",
        "top.mid.c",
        "top.mid.near",
        "top.mid.near.a",
        "top.mid.near.b",
        "top.far",
    }
    assert found.texts == {"table.json", "x.y", ".relative"}


@pytest.mark.parametrize(
    "content", [b"def", b"\x00", b"\xff\xfe"], ids=["syntax", "null", "coding"]
)
def test_what_is_no_python_names_nothing(tmp_path, content):
    (tmp_path / "a.py").write_bytes(content)
    assert mentions(tmp_path / "a.py", "a") == Mentions()
    assert mentions(tmp_path / "missing.py", "a") == Mentions()
