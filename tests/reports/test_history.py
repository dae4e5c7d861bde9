"""A publication over time: earlier versions are kept, and every change of a row is told with its
cause."""

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import full_board

from bench.results.history import History, changes, read_history
from bench.results.stats import Estimate
from reports.history import history_page
from reports.publication import Publication

BOARD = full_board(n=3)
BOARD = replace(BOARD, cells=BOARD.cells[:3])


def with_cell(change, place=0):
    cells = list(BOARD.cells)
    cells[place] = change(cells[place])
    return replace(BOARD, cells=tuple(cells))


def inputs(kind, **values):
    def change(cell):
        part = {**(cell.inputs.get(kind) or {}), **values}
        return replace(cell, inputs={**cell.inputs, kind: part}, recovery=Estimate(0.9, 0.8, 1.0))

    return change


def environment(**values):
    def change(cell):
        return replace(cell, environment={**cell.environment, **values})

    return change


CAUSES = {
    "network": (with_cell(inputs("target", digest="0" * 64)), "another network"),
    "attack": (with_cell(inputs("attack", params={"steps": 7})), "another attack"),
    "network-code": (with_cell(environment(sources={"target": "1"})), "another network"),
    "attack-code": (with_cell(environment(sources={"attack": "1"})), "another attack"),
    "harness": (with_cell(environment(gatebench="9.9")), "made otherwise: gatebench 9.9"),
    "nothing": (
        with_cell(lambda cell: replace(cell, recovery=Estimate(0.9, 0.8, 1.0))),
        "nothing explains it",
    ),
    "withdrawn": (
        with_cell(lambda cell: replace(cell, status="withdrawn", reason="for a reason")),
        "was ok, is withdrawn: for a reason",
    ),
    "protocol": (replace(BOARD, protocol={**BOARD.protocol, "audit": 99}), "another protocol"),
    "accuracy": (
        with_cell(lambda cell: replace(cell, adversarial_accuracy=Estimate(0.1))),
        "its accuracy, PSNR or flags",
    ),
    "psnr": (with_cell(lambda cell: replace(cell, psnr=20.0)), "its accuracy, PSNR or flags"),
    "flags": (with_cell(lambda cell: replace(cell, flags=("stuck",))), "its accuracy, PSNR or"),
    "rank": (with_cell(lambda cell: replace(cell, attack_rank=77)), "its rank"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_a_row_that_changed_says_why(cause):
    board, said = CAUSES[cause]
    history = History().with_boards([BOARD]).with_boards([board])
    assert len(history.versions) == 2
    assert said in changes(*history.versions)[0].why
    page = history_page(history)
    assert said in page.sections[0].rows[0][-1].text


def test_a_version_that_notes_less_is_no_other_one():
    """Publications from before accuracy, PSNR and flags were noted."""
    older = History().with_boards([BOARD])
    (version,) = older.versions
    older = History((replace(version, rows=tuple(replace(r, besides="") for r in version.rows)),))
    again = older.with_boards([BOARD])
    assert again == History().with_boards([BOARD]), "noted from now on"


def test_another_name_of_the_run_is_no_change():
    history = History().with_boards([BOARD]).with_boards([replace(BOARD, name="another")])
    assert len(history.versions) == 1


def test_two_boards_of_one_protocol_are_told_apart_by_their_runs():
    other = replace(BOARD, name="another")
    (version,) = History().with_boards([BOARD, other]).versions
    assert len({row.board for row in version.rows}) == 2


def test_rows_that_came_and_went_are_named():
    less = replace(BOARD, cells=BOARD.cells[1:])
    history = History().with_boards([BOARD]).with_boards([less]).with_boards([BOARD])
    first, second, third = history.versions
    assert [change.why for change in changes(first, second)] == ["is gone"]
    assert [change.why for change in changes(second, third)] == ["is new"]
    assert changes(third, third) == []


def test_the_same_boards_make_no_version_and_the_same_bytes(tmp_path: Path):
    for _ in range(2):
        report = Publication(title="Ours", earlier=tmp_path / "site")
        report.render_all([BOARD], tmp_path / "site")
    once = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in sorted((tmp_path / "site").rglob("*"))
        if path.is_file()
    }
    assert len(read_history(tmp_path / "site").versions) == 1
    assert not (tmp_path / "site" / "history.html").exists()
    Publication(title="Ours", earlier=tmp_path / "site").render_all([BOARD], tmp_path / "site")
    again = {
        path.relative_to(tmp_path): path.read_bytes()
        for path in sorted((tmp_path / "site").rglob("*"))
        if path.is_file()
    }
    assert once == again


def test_a_publication_keeps_what_it_said_before(tmp_path: Path):
    site = tmp_path / "site"
    boards = [BOARD, CAUSES["attack"][0], CAUSES["withdrawn"][0]]
    for number, board in enumerate(boards):
        report = Publication(title="Ours", earlier=site, version_name=f"edition {number}")
        report.render_all([board], site)
    assert [one.name for one in read_history(site).versions] == [
        "edition 0",
        "edition 1",
        "edition 2",
    ]
    page = (site / "history.html").read_text(encoding="utf-8")
    assert page.index("edition 1 → edition 2") < page.index("edition 0 → edition 1")
    assert "another attack" in page
    assert "for a reason" in page
    assert 'href="history.html"' in (site / "index.html").read_text(encoding="utf-8")
    assert "versions.json" in (site / "SHA256SUMS").read_text()
