"""Shares: every shard belongs to exactly one, and all are about as large."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import PlanError
from bench.runs.share import Division, Share, parse_share


@dataclass
class Part:
    """As much of a cell as a division reads."""

    images: int
    batch: int

    @property
    def protocol(self):
        return SimpleNamespace(images=self.images, batch=self.batch)


plans = st.dictionaries(
    st.text("0123456789abcdef", min_size=4, max_size=4),
    st.builds(Part, st.integers(1, 60), st.integers(1, 9)),
    min_size=1,
    max_size=6,
)


def shards(cells, size):
    for key, cell in cells.items():
        step = max(size // cell.batch, 1) * cell.batch
        yield from ((key, first) for first in range(0, cell.images, step))


@given(plans, st.integers(1, 30), st.integers(1, 8))
def test_every_shard_belongs_to_one_share_and_all_are_alike_in_size(cells, size, of):
    every = list(shards(cells, size))
    owned = [
        [shard for shard in every if Division(cells, size, Share(number, of)).has(*shard)]
        for number in range(1, of + 1)
    ]
    assert sorted(shard for part in owned for shard in part) == sorted(every)
    counts = [len(part) for part in owned]
    assert max(counts) - min(counts) <= 1


@given(plans, st.integers(1, 30))
def test_the_order_of_the_plan_changes_no_share(cells, size):
    turned = dict(reversed(cells.items()))
    for key, first in shards(cells, size):
        here, there = (
            Division(part, size, Share(1, 3)).has(key, first) for part in (cells, turned)
        )
        assert here == there


def test_a_cell_is_opened_by_few_shares():
    cells = {f"{i:04x}": Part(1000, 10) for i in range(10)}
    for key in cells:
        owners = {
            number
            for number in range(1, 6)
            for first in range(0, 1000, 10)
            if Division(cells, 10, Share(number, 5)).has(key, first)
        }
        assert len(owners) == 1


@pytest.mark.parametrize(
    "text", ["", "1", "0/3", "4/3", "1/0", "-1/3", "a/b", "1/2/3", "1 / 2", "1/1000000", "१/३"]
)
def test_what_is_no_share_is_refused(text):
    with pytest.raises(PlanError, match="expected I/N with 1 <= I <= N"):
        parse_share(text)


def test_a_share_is_named():
    assert parse_share("2/5") == Share(2, 5)
    assert (str(Share(2, 5)), Share(2, 5).suffix) == ("2/5", "-2of5")
