"""Traces: what thinning keeps."""

import pytest

from bench.results.traces import is_thinned, thinned

MOST = 32


@pytest.mark.parametrize("rises", [1, 3, 32, 33, 90, 400])
def test_thinning_keeps_first_last_and_rises(rises):
    points = [(i, i * rises // 400, float(-i)) for i in range(400)]
    kept = thinned(points, MOST)
    assert len(kept) <= MOST
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert kept[0] == points[0]
    assert kept[-1] == points[-1]
    steps = [point for i, point in enumerate(points) if i == 0 or point[1] > points[i - 1][1]]
    if len(steps) < MOST:
        assert set(steps) <= set(kept)
    assert is_thinned(kept, points)
    assert thinned(points[:20], 32) == points[:20]


def test_a_part_of_a_trace_keeps_its_order_and_its_end():
    whole = [(1, 5, 0.0), (2, 6, 1.0), (3, 7, 2.0)]
    assert is_thinned(whole, whole)
    assert is_thinned([whole[0], whole[2]], whole)
    assert is_thinned([], [])
    assert not is_thinned(whole[:2], whole), "the last point is always there"
    assert not is_thinned([whole[1], whole[0], whole[2]], whole)
    assert not is_thinned([(1, 9, 0.0), whole[2]], whole)
    assert not is_thinned([], whole)
