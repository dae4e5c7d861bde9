"""`gatebench plan`: what a plan would run, and how long it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import as_json, batch_words, emit, plan_options, read_plan
from bench.terminal import (
    LONGEST_LINE,
    FittedColumn,
    FittedTable,
    cell,
    console,
    counted,
    one_line,
    say,
)

if TYPE_CHECKING:
    from bench.contracts.cell import Cell
    from bench.plans.estimates import Speed
    from bench.plans.plan import Plan

    Speeds = Mapping[str, Speed]


@click.command()
@click.option("-v", "--verbose", is_flag=True, help="A line a cell, not only a line a target.")
@click.option(
    "--json", "json_file", metavar="FILE", help='Write all cells as JSON; "-" is the terminal.'
)
@plan_options
def plan(
    plan_source: str,
    only: Sequence[str],
    images: int | None,
    device: str | None,
    overrides: Sequence[str],
    verbose: bool,
    json_file: str | None,
) -> None:
    """Show what PLAN comes to (a suite's name or a TOML file; default ./bench.toml).

    Nothing is run. A line a target, with the attacks on it and the time they would take, estimated
    from earlier runs on this machine. A forward-equivalent is one forward pass of one image; a
    backward pass counts as two.
    """
    from bench.plans.estimates import speeds

    resolved = read_plan(plan_source, only, images, device, overrides)
    known = speeds()
    emit(json_file, as_json(_document(resolved, known)))
    if json_file == "-":
        return
    out = console()
    for cells in resolved.boards:
        protocol = cells[0].protocol
        out.print(
            cell(
                f"{protocol.dataset}, {counted(protocol.images, 'image')}, {protocol.terms}", "bold"
            )
        )
        table = _cells(cells, known, out.width) if verbose else _targets(cells, known, out.width)
        out.print(table.table())
        names = (FittedColumn("what", name=True), FittedColumn("names", name=True))
        line = [cell("attacks:", "dim"), cell(_attacks(cells), "dim", LONGEST_LINE)]
        out.print(FittedTable(names, [line], out.width).table(heads=False))
    say(_summary(resolved, known))
    say(
        "forward-eq.: a forward-equivalent is one forward pass of one image, a backward pass "
        "counts as two (docs/glossary.md)"
    )
    if taken := batch_words(resolved):
        say(taken)


def _cells(cells: Sequence[Cell], known: Speeds, width: int) -> FittedTable:
    """One line a cell."""
    columns = (
        FittedColumn("target", name=True),
        FittedColumn("defense", 0 if any(one.defense for one in cells) else 9, name=True),
        FittedColumn("attack", name=True),
        FittedColumn("weights", 3, name=True),
        FittedColumn("images", 4),
        FittedColumn("forward-eq.", 2),
        FittedColumn("about", 1),
    )
    return FittedTable(columns, [_row(one, known) for one in cells], width)


def _row(one: Cell, known: Speeds) -> list[str]:
    members = len(one.attack.members)
    excluded = f" (excluded: {one_line(one.excluded)})" if one.excluded else ""
    return [
        one.target.label,
        one.defense.label if one.defense else "-",
        f"{one.attack.label}{excluded}",
        one.target.weights,
        str(one.protocol.images),
        f"of {counted(members, 'cell')}" if members else f"<= {_work(one):,}",
        _about([one], known) if _live([one]) else "-",
    ]


def _targets(cells: Sequence[Cell], known: Speeds, width: int) -> FittedTable:
    """One line a target and defense."""
    columns = (
        FittedColumn("target", name=True),
        FittedColumn("attacks"),
        FittedColumn("combined", 5),
        FittedColumn("excluded", 4),
        FittedColumn("forward-eq.", 2),
        FittedColumn("about", 1),
    )
    rows = []
    for who in dict.fromkeys(one.who for one in cells):
        own = [one for one in cells if one.who == who]
        live = _live(own)
        rows.append(
            [
                own[0].defended,
                str(len(live)),
                str(sum(one.is_combined and not one.excluded for one in own)),
                str(sum(bool(one.excluded) for one in own)),
                f"<= {sum(map(_work, live)):,}",
                _about(live, known) if live else "-",
            ]
        )
    return FittedTable(columns, rows, width)


def _attacks(cells: Sequence[Cell]) -> str:
    """The attacks of a board by name."""
    return ", ".join(dict.fromkeys(one.attack.label for one in cells))


def _live(cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are computed: neither excluded nor combined from others."""
    return [one for one in cells if not one.excluded and not one.is_combined]


def _work(one: Cell) -> int:
    """Forward-equivalents of a cell at most."""
    return one.protocol.images * one.protocol.budget


def _seconds(cells: Sequence[Cell], known: Speeds) -> float | None:
    """What the cells would take; None where one of their targets was never run here."""
    if any(one.target.label not in known for one in cells):
        return None
    return sum(known[one.target.label].seconds * _work(one) for one in cells)


def _about(cells: Sequence[Cell], known: Speeds) -> str:
    seconds = _seconds(cells, known)
    if seconds is None:
        return "?"
    rough = any(known[one.target.label].is_rough for one in cells)
    return f"{'~' if rough else ''}{_duration(seconds)}"


def _summary(resolved: Plan, known: Speeds) -> str:
    live = _live(resolved.cells)
    unknown = {one.target.label for one in live if one.target.label not in known}
    timed = [one for one in live if one.target.label not in unknown]
    time = "time unknown before a first run here"
    if timed:
        time = f"about {_about(timed, known)} of one worker's time"
        time += f" without {', '.join(sorted(unknown))}, never run here" if unknown else ""
    if any(known[one.target.label].is_rough for one in timed):
        time += " (~: from a small run)"
    boards = len(resolved.boards)
    work = sum(map(_work, live))
    return (
        f"{counted(len(live), 'cell')} in {counted(boards, 'board')}, at most {work:,} "
        f"forward-equivalents, {time}"
    )


def _document(resolved: Plan, known: Speeds) -> dict[str, Any]:
    """Everything that the table says, and what each cell is."""
    live = _live(resolved.cells)
    return {
        "schema": 1,
        "digest": resolved.digest,
        "options": vars(resolved.options),
        "forward_equivalents": sum(map(_work, live)),
        "seconds": _seconds(live, known),
        "boards": [
            {
                "protocol": cells[0].protocol.document(),
                "cells": [
                    {
                        **one.document(),
                        "label": one.label,
                        "forward_equivalents": _work(one) if _live([one]) else 0,
                        "seconds": _seconds([one], known) if _live([one]) else 0.0,
                    }
                    for one in cells
                ],
            }
            for cells in resolved.boards
        ],
    }


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
