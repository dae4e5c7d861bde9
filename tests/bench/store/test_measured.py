"""Rows held against the terms of their cell: what honest ones pass, and what others do not."""

import math
from dataclasses import replace

import pyarrow as pa
import pytest

from bench.contracts.cell import Cell, Component, Protocol
from bench.contracts.threat import parse_threat
from bench.store.measured import budget_of, check_measured, row_problems
from bench.store.schema import ROWS, names
from bench.store.sealed import Combination, MemberWins
from bench.store.target import (
    DatasetWords,
    FloatNoise,
    GradientCounts,
    TargetDescription,
    UnitColumns,
)

VALUES = 3 * 16 * 16
TARGET = TargetDescription(
    floor=10,
    ceiling=90,
    reference=90,
    bound=95,
    draws=1,
    noise=FloatNoise(0.0, 0.0),
    classes=("a", "b"),
    dataset=DatasetWords("d:test", "", ()),
    control=False,
    units=UnitColumns(("u",), ("block",), ("u",), ((),), (80,), (0.5,)),
    gradients=GradientCounts(0, 0, 0, 0, 0, False),
    image_shape=(3, 16, 16),
)
UNSHAPED = replace(TARGET, image_shape=())


def component(name, *members):
    return Component(name, "gatebench", f"m:{name}", name, {}, members=members)


def cell(threat, *members, budget=9):
    protocol = Protocol("d:test", 2, 2, parse_threat(threat), budget=budget, seed=0, audit=1)
    return Cell(protocol, component("t"), component("a", *members))


def table(**changes):
    """Two rows, of one unchanged and one changed image; `changes` are of the second."""
    squared = changes.get("squared", 0)
    second = {
        "linf": math.ceil(math.sqrt(squared / VALUES)),
        "l2": math.sqrt(squared) / 255,
        "psnr": 10 * math.log10(255**2 * VALUES / squared) if squared else 120.0,
        **changes,
    }
    first = {"linf": 0, "squared": 0, "l2": 0.0, "psnr": 120.0}
    both = {"label": 1, "clean_prediction": 1, "adversarial_prediction": 0, "clean_macs": 10}
    both |= {"adversarial_macs": 95, "float_macs": 95, "ssim": 1.0, "near_threshold": 2}
    both |= {"evaluations": 9, "forwards": 3, "backwards": 3, "overshoot": False}
    both |= {"clean_decisions": b"\x00", "adversarial_decisions": b"\x80"}
    rows = [{"id": "x", **both, **first}, {"id": "y", **both, "squared": 0, **second}]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([ROWS.field(name) for name in names(plain=True)])
    )


THREATS = {
    "linf": ({"norm": "linf", "eps": "8/255"}, 64 * VALUES),
    "l2": ({"norm": "l2", "eps": "1/2"}, 16256),
    "psnr": ({"norm": "psnr", "floor": 35}, 15792),
    "patch": ({"patch": 2}, 255**2 * 3 * 4),
}


@pytest.mark.parametrize("target", [TARGET, UNSHAPED], ids=["shape-known", "shape-unknown"])
@pytest.mark.parametrize("name", THREATS)
def test_the_whole_threat_is_allowed_and_no_level_more(name, target):
    threat, most = THREATS[name]
    linf = {"linf": 8} if name == "linf" else {}
    linf = {"linf": 255} if name == "patch" else linf
    check_measured(table(squared=most, **linf), cell(threat), target)
    beyond = {"squared": 81 * VALUES, "linf": 9} if name == "linf" else {"squared": most + 1}
    with pytest.raises(ValueError, match="image y: lies outside"):
        check_measured(table(**{**linf, **beyond}), cell(threat), target)


def test_any_image_is_allowed_where_nothing_is_bounded():
    check_measured(table(squared=255**2 * VALUES, linf=255), cell("none"), TARGET)


def test_distances_of_a_larger_image_need_a_larger_image():
    """Squared and PSNR that agree with each other, of images of another size."""
    psnr = 10 * math.log10(255**2 * 4 * VALUES / 60_000)
    forged = table(squared=60_000, linf=100, psnr=psnr)
    terms = cell({"norm": "psnr", "floor": 35})
    check_measured(forged, terms, UNSHAPED)
    with pytest.raises(ValueError, match="image y: psnr is"):
        check_measured(forged, terms, TARGET)


def combination(*members):
    wins = tuple(MemberWins(str(place), name, 0, 0, 0.0) for place, name in enumerate(members))
    return Combination(0, wins, (), (), ())


@pytest.mark.parametrize(
    ("took_part", "budget"),
    [(("b", "c"), 18), (("b",), 9), (("b", "c", "d", "e"), 18)],
    ids=["all", "one-left-out", "more-than-planned"],
)
def test_an_ensemble_may_use_what_its_members_may(took_part, budget):
    ensemble = cell("none", component("b"), component("c"))
    made = combination(*took_part)
    assert budget_of(ensemble, made) == budget
    spent = {"backwards": 0}
    check_measured(table(evaluations=budget, forwards=budget, **spent), ensemble, TARGET, made)
    with pytest.raises(ValueError, match=rf"used {budget + 1} of {budget} forward-equivalents"):
        check_measured(
            table(evaluations=budget + 1, forwards=budget + 1, **spent), ensemble, TARGET, made
        )


def test_another_cell_gains_nothing_by_claiming_members():
    assert budget_of(cell("none"), combination("b", "c")) == 9


def test_each_kind_of_problem_is_named_once():
    forged = table(label=2, evaluations=10, near_threshold=3, l2=1.0)
    found = list(row_problems(forged, cell("none"), TARGET))
    assert [text.partition(": ")[2].partition(" ")[0] for text in found] == [
        "evaluations",
        "used",
        "l2",
        "label",
        "near_threshold",
    ]
    assert all(text.startswith("image y: ") for text in found)


def test_some_columns_are_held_as_far_as_they_go():
    part = table(label=2, squared=1, linf=3).select(["id", "squared", "linf"])
    assert list(row_problems(part, cell("none"), TARGET)) == []
    part = table(label=2).select(["id", "label"])
    assert list(row_problems(part, cell("none"), TARGET)) == ["image y: label is 2, of 2 classes"]


def test_columns_that_older_runs_lack_are_not_held():
    older = table()
    assert older["jpeg_macs"].null_count == older["held"].null_count == 2
    check_measured(older, cell("none"), TARGET)
    check_measured(older, cell("none"), None)


@pytest.mark.parametrize(
    "psnr", [math.nan, math.inf, 1e308, -5.0], ids=["nan", "infinite", "huge", "negative"]
)
def test_numbers_of_no_kind_break_nothing(psnr):
    """Whoever lists all problems looks on where a column is out of its range."""
    odd = table(squared=2**53, linf=2**53, psnr=psnr, evaluations=-(2**62), forwards=2**62)
    assert list(row_problems(odd, cell({"norm": "psnr", "floor": 35}), UNSHAPED))
