"""`gatebench show`: the table of a run in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import as_json, emit

if TYPE_CHECKING:
    from bench.results.records import Board, BoardCell
    from bench.results.stats import Estimate


@click.command()
@click.argument("run")
@click.option(
    "--json", "json_file", metavar="FILE", help='Write every number as JSON; "-" is the terminal.'
)
def show(run: str, json_file: str | None) -> None:
    """Print the leaderboard of RUN (a folder, or the name of one in the folder of all runs).

    At any width names and flags are whole; what there is no room for is said, and is in --json.
    Numbers are made of the rows alone; 'gatebench report' and 'verify' look at the pictures too.
    """
    from bench.plugins import registry
    from bench.results.board import load_boards
    from bench.store.folder import find_run

    boards = load_boards(find_run(run))
    emit(json_file, as_json({"schema": 1, "boards": [_board(board) for board in boards]}))
    if json_file == "-":
        return
    terminal = registry.load("report", "terminal")()
    for board in boards:
        terminal.render(board)


_NUMBERS = (
    "n", "floor", "ceiling", "reference", "clean_macs", "adversarial_macs", "float_macs",
    "block_recovery", "psnr", "pooled_psnr", "unchanged", "ssim", "l2", "linf", "flip_rate",
    "evaluations", "attack_rank",
)  # fmt: skip
_ESTIMATES = (
    "recovery", "float_recovery", "jpeg_recovery", "mean_recovery", "clean_saving",
    "surviving_saving", "clean_efficacy", "adversarial_efficacy", "clean_accuracy",
    "adversarial_accuracy", "agreement",
)  # fmt: skip


def _board(board: Board) -> dict[str, Any]:
    return {
        "name": board.name,
        "dataset": board.dataset,
        "note": board.dataset_note,
        "preliminary": board.preliminary,
        "unreadable": list(board.unreadable),
        "protocol": dict(board.protocol),
        "intervals": board.intervals,
        "standings": [
            {
                "target": one.target,
                "defense": one.defense,
                "rank": one.rank,
                "lacks": list(one.lacks),
                "strongest": one.strongest,
                "surviving_saving": _estimate(one.surviving_saving),
                "clean_saving": _estimate(one.clean_saving),
                "clean_accuracy": _estimate(one.clean_accuracy),
            }
            for one in board.standings
        ],
        "cells": [_cell(cell) for cell in board.cells],
    }


def _cell(cell: BoardCell) -> dict[str, Any]:
    told = ("key", "target", "defense", "attack", "status", "reason", "control", "sees", "command")
    return {
        **{name: getattr(cell, name) for name in told},
        "flags": list(cell.flags),
        **{name: getattr(cell, name) for name in _NUMBERS},
        **{name: _estimate(getattr(cell, name)) for name in _ESTIMATES},
    }


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    return {"value": estimate.value, "low": estimate.low, "high": estimate.high}
