"""What the index says: answers, rows, standings, the protocol in words."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest
from synthetic import empty_board, full_board

from bench.contracts.threat import Threat
from bench.results.stats import Estimate
from reports.answers import answers, strongest_attack, summary
from reports.html.links import pages
from reports.html.pages.board import board_view, front_points
from reports.order import board_order
from reports.vocabulary import COLUMNS, threat_words

BOARD = full_board(n=12)


def test_the_three_answers() -> None:
    robust, attack, price = answers(BOARD)
    best = BOARD.standings[0]
    assert robust.answer == f"{best.target} + {best.defense}"
    assert attack.answer == "gradauto"
    assert "3 of 3 targets" in attack.detail
    assert "gradauto:RM" in attack.detail
    assert price.answer.endswith("dB")
    assert "gray levels" in price.detail


def test_the_strongest_attack_says_what_it_was_not_compared_with() -> None:
    """As on a board of merged runs, where each attack was run on some targets only."""
    one = next(cell for cell in BOARD.cells if cell.status == "ok" and not cell.control)
    cells = tuple(
        replace(one, target=target, attack=attack, attack_rank=1, recovery=Estimate(won, won, won))
        for target, attack, won in (("a", "x", 0.5), ("b", "y", 0.3))
    )
    answer = answers(replace(BOARD, cells=cells, ranked=True))[1]
    assert answer.answer == "x"
    assert "first place on 1 of 2 targets, of which it has numbers on 1" in answer.detail
    assert "Not compared with y: they have no target in common." in answer.detail
    both = replace(cells[1], attack="x", attack_rank=2)
    answer = answers(replace(BOARD, cells=(*cells, both), ranked=True))[1]
    assert "numbers on" not in answer.detail
    assert "Not compared" not in answer.detail


def test_the_strongest_attack_wins_most_targets_then_most_macs() -> None:
    def ranked(target: str, attack: str, rank: int, recovery: float) -> object:
        cell = next(cell for cell in BOARD.cells if cell.status == "ok" and not cell.control)
        return replace(
            cell, target=target, attack=attack, attack_rank=rank, recovery=Estimate(recovery)
        )

    cells = (
        ranked("a", "x", 1, 0.3),
        ranked("a", "y", 2, 0.2),
        ranked("b", "x", 1, 0.3),
        ranked("b", "y", 1, 0.9),
    )
    assert strongest_attack(replace(BOARD, cells=cells)) == "x"  # type: ignore[arg-type]
    assert strongest_attack(replace(BOARD, cells=(cells[0], cells[3]))) == "y"  # type: ignore[arg-type]


def test_controls_never_answer() -> None:
    only_controls = replace(
        BOARD, cells=tuple(cell for cell in BOARD.cells if cell.control), standings=()
    )
    assert [answer.answer for answer in answers(only_controls)] == ["–", "–", "–"]


def test_an_unranked_board_names_no_winner() -> None:
    robust, attack, _ = answers(full_board(n=12, ranked=False))
    assert (robust.answer, attack.answer) == ("not ranked", "not ranked")


def test_a_shared_first_place_is_said() -> None:
    standings = tuple(replace(standing, rank=1) for standing in BOARD.standings[:2])
    robust = answers(replace(BOARD, standings=standings))[0]
    assert robust.answer.count(",") == 1
    assert "share the first place" in robust.detail


def test_cells_that_are_not_ok_show_a_reason_and_no_number() -> None:
    rows = board_view(BOARD)["rows"]
    assert len(rows) == len(BOARD.cells)
    for row, cell in zip(rows, board_order(BOARD), strict=True):
        assert row.ok == (cell.status == "ok")
        assert ("recovery" in row.fields) == row.ok
        assert row.ok or row.reason
        assert not row.ok or {column.key for column in COLUMNS} <= set(row.fields)


def test_rows_stand_strongest_first_on_the_most_robust_target_first() -> None:
    rows = board_view(BOARD)["rows"]
    targets = list(dict.fromkeys(row.fields["target"].sort for row in rows))
    assert targets == [one.defended for one in BOARD.standings]
    assert {row.name for row in rows} == {f"row-{cell.key[:12]}" for cell in BOARD.cells}
    for target in targets:
        own = [row for row in rows if row.fields["target"].sort == target]
        kinds = [(not row.ok, row.control) for row in own]
        assert kinds == sorted(kinds)
        ranks = [row.fields["rank"].sort for row in own if row.fields["rank"].sort is not None]
        assert ranks == sorted(ranks)


def test_an_invalid_cell_s_numbers_never_reach_the_table() -> None:
    cell = replace(BOARD.cells[0], status="invalid", reason="the audit failed")
    board = replace(BOARD, cells=(cell,))
    assert set(board_view(board)["rows"][0].fields) == {"rank", "target", "attack"}
    assert front_points(board.cells) == []


def test_an_undefined_recovery_is_a_dash_and_no_point() -> None:
    static = next(cell for cell in BOARD.cells if cell.target == "resnet-20")
    row = board_view(replace(BOARD, cells=(static,)))["rows"][0]
    assert (row.fields["recovery"].text, row.fields["recovery"].sort) == ("–", None)
    assert front_points((static,)) == []


def test_unchanged_images_are_no_point_of_the_front_and_are_named() -> None:
    assert "identity" not in {point.attack for point in front_points(BOARD.cells)}
    assert board_view(BOARD)["unchanged"] == ["identity"]


def test_the_front_is_pooled_so_that_unchanged_images_cannot_lift_it() -> None:
    cell = replace(BOARD.cells[0], psnr=80.0, pooled_psnr=36.0)
    assert front_points((cell,))[0].psnr == 36.0


def test_pages_are_unique_and_harmless_names() -> None:
    twins = tuple(
        replace(cell, key=f"abcdef012345{index}") for index, cell in enumerate(BOARD.cells[:3])
    )
    hostile = replace(BOARD.cells[3], key="../../etc/passwd")
    places = pages(replace(BOARD, cells=(*twins, hostile)))
    assert len(set(places.values())) == 4
    assert all(
        place.startswith("cells/") and place.count("/") == 1 and ".." not in place
        for place in places.values()
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param("none", "no bound", id="none"),
        pytest.param({"norm": "psnr", "floor": "35"}, "35 dB", id="psnr"),
        pytest.param({"norm": "psnr", "floor": "35"}, "4.5 gray levels", id="psnr-gray-levels"),
        pytest.param({"norm": "linf", "eps": "8/255"}, "8 of 255", id="linf"),
        pytest.param({"norm": "l2", "eps": "1/2"}, "1/2", id="l2"),
        pytest.param({"patch": 8}, "8 pixels", id="patch"),
        pytest.param(Threat("linf", Fraction(4, 255)), "4 of 255", id="threat"),
        pytest.param("something new", "something new", id="unknown"),
    ],
)
def test_threats_in_words(document: object, words: str) -> None:
    assert words in threat_words(document)


def test_the_protocol_in_one_line() -> None:
    line = summary(BOARD)
    for part in ("digits-m:test", "12 images", "35 dB", "150 forward-equivalents"):
        assert part in line


def test_a_board_without_cells_is_still_a_page() -> None:
    view = board_view(empty_board())
    assert view["rows"] == []
    assert [answer.answer for answer in view["answers"]] == ["–", "–", "–"]
