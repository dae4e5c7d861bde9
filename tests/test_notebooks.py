"""The notebooks of the examples run, cell by cell, and show what they say."""

import ast
import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples" / "notebook"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def cells(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    return [cell for cell in document["cells"] if cell["cell_type"] == "code"]


def executed(source, names):
    """The value of a cell's last expression, as a notebook would show it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_no_output_is_committed(path):
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells(path))


@pytest.mark.slow  # runs a notebook whole
def test_an_own_network_is_attacked_in_ten_lines(monkeypatch):
    """A number, a picture and a table, from a plain torch module."""
    from torch import nn

    from bench.api import Target

    monkeypatch.syspath_prepend(str(FOLDER))
    sources = ["".join(cell["source"]) for cell in cells(FOLDER / "own_network.ipynb")]
    lines = [line for source in sources for line in source.splitlines() if line.strip()]
    assert len(lines) <= 10
    names = {}
    result, recovery, picture, rows = (executed(source, names) for source in sources)
    network = names["network"]
    assert isinstance(network, nn.Module)
    assert not isinstance(network, Target)
    assert 0.1 < result.clean_saving.value < 0.5
    assert 0.05 < recovery.low < recovery.value <= 1
    assert "<img" in result._repr_html_()
    assert picture.size[0] > 3 * 192
    assert len(rows) == 32
    assert "<table>" in rows._repr_html_()
