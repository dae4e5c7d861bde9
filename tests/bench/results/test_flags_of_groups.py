"""Flags that the company of other cells gives: by hand."""

from dataclasses import replace

from bench.results.flags import Seen, of_group, shrinks, with_radius_flags, with_rival_flags
from bench.results.records import Board, BoardCell
from bench.results.stats import Estimate


def one(macs, sees="gates", **others):
    return BoardCell(
        key="k",
        target="t",
        defense=others.pop("defense", "d"),
        attack=others.pop("attack", "a"),
        inputs={},
        status="ok",
        adversarial_macs=macs,
        clean_macs=500.0,
        reference=1000,
        recovery=Estimate((macs - 500) / 500),
        sees=sees,
        **others,
    )


def flags(cells):
    return [cell.flags for cell in with_rival_flags(cells)]


def test_a_transfer_that_wins_more_flags_who_knew_better():
    assert flags([one(600.0), one(700.0, "network")]) == [("transfer-leads",), ()]
    assert flags([one(700.0), one(600.0, "network")]) == [(), ()]
    assert flags([one(699.5), one(700.0, "network")]) == [(), ()]  # 0.1 points are nothing


def test_a_black_box_that_wins_more_flags_the_white_boxes():
    assert flags([one(600.0), one(650.0), one(700.0, "macs")]) == [
        ("black-box-leads",),
        ("black-box-leads",),
        (),
    ]


def test_only_attacks_on_the_same_defended_target_are_company():
    assert flags([one(600.0), one(700.0, "network", defense="other")]) == [(), ()]
    assert flags([one(600.0), one(700.0, "network", control=True)]) == [(), ()]
    assert flags([one(700.0, "network")]) == [()]


def test_a_group_without_reserve_has_no_flags():
    assert of_group([Seen(10, 0, False, False), Seen(20, 0, False, True)]) == [[], []]


def test_a_larger_ball_holds_the_smaller_one():
    assert shrinks([(1, 0.5), (2, 0.4), (3, 0.6)]) == [False, True, False]
    assert shrinks([(1, 0.5), (2, 0.495)]) == [False, False]


def test_boards_of_a_run_are_held_against_each_other():
    def board(floor, recovery):
        protocol = {
            "threat": {"norm": "psnr", "floor": str(floor)},
            "images": 9,
            "budget": 5,
            "seed": 0,
        }
        cell = replace(one(500 + 500 * recovery), recovery=Estimate(recovery))
        return Board("b", protocol, {}, "", "data", "", (), False, True, "", "", (cell,), ())

    found = with_radius_flags([board(30, 0.3), board(35, 0.5), board(40, 0.1)])
    assert [entry.cells[0].flags for entry in found] == [("shrinks-with-radius",), (), ()]
