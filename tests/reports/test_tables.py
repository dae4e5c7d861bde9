"""The table in the terminal."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from synthetic import empty_board, full_board

from bench.results.records import Board
from reports.tables import WIDTH, Terminal, print_table, render_table

BOARD = full_board(n=12)


def printed(board: Board) -> str:
    out = io.StringIO()
    print_table(board, out)
    return out.getvalue()


def test_it_fits_and_is_plain_where_there_is_no_terminal() -> None:
    text = printed(BOARD)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "\x1b" not in text


def test_every_cell_is_there_and_the_others_say_why() -> None:
    text = printed(BOARD)
    for cell in BOARD.cells:
        assert cell.attack in text
    assert "attack-invalid invalid: macs(decisions) says 40 813 184" in text
    assert "attack-failed failed: ValueError: no such gate in perturb, line 12" in text
    assert "preliminary" in text
    assert "for trying, not for claims" in text
    assert "95 % paired bootstrap" in text


def test_attacks_come_by_rank_and_controls_after_them() -> None:
    block = printed(BOARD).split("skipnet-20-budget + jpeg")[1].split("\n\n")[0]
    order = [block.index(name) for name in ("ilfo", "gradauto:RD", "contrast")]
    assert order == sorted(order)
    assert order[1] < min(block.index("noise"), block.index("identity"))
    assert max(block.index("gradauto  "), block.index("gradauto:RM")) < order[0]


def test_long_names_fold_instead_of_pushing_numbers_out() -> None:
    board = replace(BOARD, cells=(replace(BOARD.cells[0], attack="a-very-long-attack-label-" * 6),))
    text = printed(board)
    assert max(len(line) for line in text.splitlines()) <= WIDTH
    assert "MMAC" in text


@pytest.mark.parametrize(
    "name",
    [
        "[bold red]x[/bold red]",
        "[/]",
        "[link=https://x]y[/link]",
        ":warning:",
        "a\nb",
        "\x1b[2Jc",
        "[0]",
    ],
)
def test_markup_escapes_and_line_feeds_in_names_are_only_text(name: str) -> None:
    cell = replace(BOARD.cells[0], attack=name, flags=(name,), target=name)
    failed = replace(BOARD.cells[1], attack=name, status=name, reason=name)
    standing = replace(BOARD.standings[0], target=name, strongest=name)
    text = printed(
        replace(
            BOARD,
            name=name,
            dataset=name,
            dataset_note=name,
            intervals=name,
            cells=(cell, failed),
            standings=(standing,),
        )
    )
    shown = name.replace("\n", " ").replace("\x1b", "")
    assert "\x1b" not in text
    assert text.startswith(f"{shown}\n")
    assert f"  {shown} {shown}: {shown}" in text


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    out = io.StringIO()
    Console(file=out, force_terminal=True, width=WIDTH).print(render_table(BOARD))
    assert "\x1b[3" not in out.getvalue()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "xterm-256color")
    Console(file=out, force_terminal=True, width=WIDTH, color_system="256").print(
        render_table(BOARD)
    )
    assert "\x1b[3" in out.getvalue()


def test_boards_without_numbers_print_too() -> None:
    assert "Most robust target: –" in printed(empty_board())
    assert "Attacks are not ranked without a bound" in printed(full_board(n=4, ranked=False))


def test_as_a_report_it_prints_or_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    Terminal().render(BOARD, None)
    on_screen = capsys.readouterr().out
    Terminal().render(BOARD, tmp_path)
    assert (tmp_path / "board.txt").read_text(encoding="utf-8") == on_screen == printed(BOARD)
