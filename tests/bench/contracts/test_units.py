"""The table of units: chains of units that come after one another."""

from dataclasses import replace

import pytest
import torch

from bench.api import Units
from bench.errors import ContractBroken


def chained(after):
    count = len(after)
    units = Units.gated([f"u{i}" for i in range(count)], ["chain"] * count, [1] * count)
    return replace(units, after=torch.tensor(after))


def by_hand(after, row):
    """Whether each unit and all its ancestors are on, followed one by one."""
    closed = []
    for unit in range(len(after)):
        on, at = row[unit], after[unit]
        while on and at >= 0:
            on, at = row[at], after[at]
        closed.append(on)
    return closed


@pytest.mark.parametrize(
    "after",
    [
        pytest.param([-1, -1, -1], id="free"),
        pytest.param([-1, 0, 1, 2], id="chain"),
        pytest.param([3, 0, -1, 2], id="backward"),
        pytest.param([-1, 0, 0, 1, -1, 4], id="tree"),
    ],
)
def test_a_unit_runs_only_with_all_that_it_comes_after(after):
    units = chained(after)
    every = torch.cartesian_prod(*[torch.tensor([False, True])] * len(after))
    assert units.admissible(every).tolist() == [by_hand(after, row) for row in every.tolist()]


def test_what_is_asked_for_is_left_alone():
    asked = torch.tensor([[False, True]])
    assert chained([-1, 0]).admissible(asked).tolist() == [[False, False]]
    assert asked.tolist() == [[False, True]]


def test_a_circle_is_refused():
    with pytest.raises(ContractBroken, match="circle at u1"):
        chained([-1, 2, 1]).admissible(torch.ones(1, 3, dtype=torch.bool))


def test_no_unit_is_an_alarm_unless_the_column_says_so():
    units = Units.gated(["a", "b"], ["a", "b"], [1, 2])
    assert units.alarm.tolist() == [False, False]
    assert replace(units, alarm=torch.tensor([False, True])).alarm.tolist() == [False, True]
    with pytest.raises(ContractBroken, match=r"Units\.alarm has 3 rows"):
        replace(units, alarm=torch.zeros(3, dtype=torch.bool))
    with pytest.raises(ContractBroken, match=r"Units\.alarm must be torch\.bool"):
        replace(units, alarm=torch.zeros(2))
