"""Which attacks a target did not have to stand; hand-made cells."""

import pytest

from bench.results.lacking import lacking
from bench.results.records import BoardCell
from bench.store.submission import Submission

STRANGER = Submission("A", "images", "CC0-1.0", "", "", "0" * 64)


def cell(target, attack, defense="", **others):
    others.setdefault("status", "ok")
    return BoardCell("", target, defense, attack, others.pop("inputs", {}), **others)


def ensemble(target, defense=""):
    members = {"attack": {"members": [{"label": "part"}]}}
    return cell(target, "all", defense, inputs=members)


BARE = (cell("a", "x"), cell("b", "x"))
PAST = {"attack": {"params": {"knows": "network"}}}
CASES = {
    "ragged targets": ((cell("a", "x"), cell("b", "y")), {"a": ["y"], "b": ["x"]}),
    "one more attack": ((*BARE, cell("a", "y")), {"b": ["y"]}),
    "another defense in each run": (
        (*BARE, cell("a", "y"), cell("b", "y"), cell("a", "x", "cap")),
        {"a + cap": ["y"]},
    ),
    "not finished": ((*BARE, cell("a", "y"), cell("b", "y", status="timeout")), {"b": ["y"]}),
    "left out for a reason": ((*BARE, cell("a", "y"), cell("b", "y", status="skipped")), {}),
    "no numbers anywhere": ((*BARE, cell("a", "y", status="failed")), {}),
    "a control": ((*BARE, cell("a", "y", control=True)), {}),
    "made for a defense": (
        (*BARE, cell("a", "x", "cap"), cell("b", "x", "jpeg"), cell("a", "y", "cap")),
        {},
    ),
    "made for a defense, on one target of two": (
        (*BARE, cell("a", "x", "cap"), cell("b", "x", "cap"), cell("a", "y", "cap")),
        {"b + cap": ["y"]},
    ),
    "knows no defense": (
        (*BARE, cell("a", "x", "cap"), cell("a", "y", "cap", inputs=PAST)),
        {},
    ),
    "knows no defense, in two runs": (
        (*BARE, cell("a", "y", inputs=PAST), cell("b", "x", "cap")),
        {"b + cap": ["y"]},
    ),
    "handed in": ((*BARE, cell("a", "y", submission=STRANGER)), {}),
    "goes on from a row": ((*BARE, cell("a", "y", flags=("continued",))), {}),
    "withdrawn": ((*BARE, cell("a", "y"), cell("b", "y", status="withdrawn")), {}),
    "a member of an ensemble": ((*BARE, ensemble("a"), cell("a", "part")), {"b": ["all"]}),
    "alone on one target, a member on another": (
        (cell("a", "part"), ensemble("b"), cell("b", "part"), cell("c", "all")),
        {"a": ["all"], "c": ["part"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_target_lacks(case):
    cells, expected = CASES[case]
    found = lacking(cells)
    assert {" + ".join(filter(None, who)): attacks for who, attacks in found.items()} == expected
