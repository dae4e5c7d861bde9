"""Fronts and their areas by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from bench.results.fronts import CellPoint, Front, fronts
from bench.results.records import BoardCell
from bench.results.stats import Estimate
from reports.html.pages.fronts import fronts_page


def front(*points):
    return Front(
        "t",
        "",
        "a",
        "150",
        False,
        4,
        tuple(CellPoint(psnr, recovery, None, None, "k", "b") for psnr, recovery in sorted(points)),
    )


def test_area_by_hand():
    """Up to 35 dB 0.8 is to be had, up to 45 dB 0.4, beyond nothing: (5 * 0.8 + 10 * 0.4) / 20."""
    one = front((35, 0.8), (45, 0.4))
    assert one.area == pytest.approx((5 * 0.8 + 10 * 0.4) / 20)
    assert [one.at(x) for x in (30, 35, 35.1, 45, 45.1)] == [0.8, 0.8, 0.4, 0.4, 0.0]
    assert (one.psnr_at(0.4), one.psnr_at(0.5), one.psnr_at(0.9)) == (45, 35, None)


def test_points_outside_the_range_count_where_they_reach_into_it():
    assert front((60, 0.5)).area == pytest.approx(0.5), "fits under every floor"
    assert front((20, 0.9)).area == 0, "too visible for any"
    assert front((40, -0.3)).area == 0, "doing nothing is better"
    assert front((32, 0.2), (40, 0.6)).area == pytest.approx(10 * 0.6 / 20), (
        "a worse point of less PSNR adds nothing"
    )


def test_cells_of_a_series_join_over_boards_and_budgets_do_not():
    known = {
        "n": 4,
        "recovery": Estimate(0.5, 0.4, 0.6),
        "psnr": 35.0,
        "pooled_psnr": 34.0,
        "series": "gradauto",
    }
    cell = BoardCell("k", "net", "", "gradauto K=1", {}, "ok", **known)
    board = SimpleNamespace(name="b", dataset="d", protocol={"images": 4, "seed": 0, "budget": 150})
    first = SimpleNamespace(
        **vars(board),
        cells=[
            cell,
            replace(cell, attack="gradauto K=2", pooled_psnr=40.0, recovery=Estimate(0.3)),
        ],
    )
    second = SimpleNamespace(
        **{**vars(board), "protocol": {**board.protocol, "threat": "other"}},
        cells=[replace(cell, pooled_psnr=50.0)],
    )
    third = SimpleNamespace(
        **{**vars(board), "protocol": {**board.protocol, "budget": 300}}, cells=[cell]
    )
    unchanged = SimpleNamespace(
        **vars(board),
        cells=[replace(cell, attack="identity", series="identity", pooled_psnr=None, psnr=120.0)],
    )
    found = fronts([first, second, third, unchanged])
    assert [(one.series, one.budget, [point.psnr for point in one.points]) for one in found] == [
        ("gradauto", "150", [34.0, 40.0, 50.0]),
        ("gradauto", "300", [34.0]),
    ]


def test_networks_and_attacks_of_two_runs_share_no_front_by_their_labels():
    """Nor do the lines of two data sets or seeds have one name on the page."""
    known = {"n": 4, "recovery": Estimate(0.5), "psnr": 35.0, "pooled_psnr": 34.0}
    made = {"name": "skipnet", "params": {"depth": 20}, "version": 1, "weights": "mine"}
    cell = BoardCell("k", "net", "", "a", {"target": made | {"digest": "00"}}, "ok", **known)
    board = {"dataset": "d", "protocol": {"images": 4, "seed": 0, "budget": 150}}
    cells = [
        cell,
        replace(cell, pooled_psnr=40.0),
        replace(cell, inputs={"target": made | {"digest": "11"}}),
        replace(cell, inputs={**cell.inputs, "attack": {"name": "other"}}),
    ]
    boards = [
        SimpleNamespace(**board, name=f"run-{place}", cells=[one])
        for place, one in enumerate(cells)
    ]
    boards.append(SimpleNamespace(**{**board, "dataset": "e"}, name="run-4", cells=[cell]))
    found = fronts(boards)
    assert [[point.board for point in one.points] for one in found] == [
        ["run-0", "run-1"],
        ["run-2"],
        ["run-3"],
        ["run-4"],
    ]
    page = fronts_page(boards)
    (section,) = page.sections
    names = [row[0].text for row in section.rows]
    assert sorted(names) == ["a, d, run-0", "a, d, run-2", "a, d, run-3", "a, e"]
