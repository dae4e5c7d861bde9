"""`gatebench plan`: what a plan would run, and how long it would take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from bench.cli.options import plan_options, read_plan
from bench.terminal import cell, console, one_line, say

if TYPE_CHECKING:
    from rich.table import Table

    from bench.contracts.cell import Cell
    from bench.plans.plan import Plan

WIDE = 110
"""Columns of a terminal from which a table also shows the weights and the number of images."""


@click.command()
@plan_options
def plan(
    plan_source: str,
    only: Sequence[str],
    images: int | None,
    device: str | None,
    overrides: Sequence[str],
) -> None:
    """Show the cells of PLAN (a suite's name or a TOML file; default ./bench.toml).

    Nothing is run. The time is estimated from earlier runs on this machine; before the first one
    there is nothing to estimate from. A forward-equivalent is one forward pass of one image; a
    backward pass counts as another.
    """
    from bench.plans.estimates import speeds

    resolved = read_plan(plan_source, only, images, device, overrides)
    known, out = speeds(), console()
    for cells in resolved.boards:
        out.print(_board(cells, known, wide=out.width >= WIDE))
    say(_summary(resolved, known))


def _board(cells: Sequence[Cell], known: Mapping[str, float], *, wide: bool) -> Table:
    """The cells of one board; where the terminal is narrow, columns go and names are folded."""
    from rich.table import Table

    protocol = cells[0].protocol
    title = f"{protocol.dataset}, {protocol.images} images, {protocol.threat}"
    table = Table(title=cell(f"{title}, budget {protocol.budget}"), title_justify="left")
    heads = ["target", "defense", "attack", "weights", "images", "forward-eq.", "about"]
    left_out = set() if wide else {"weights", "images"}
    if all(one.defense is None for one in cells):
        left_out.add("defense")
    shown = [i for i, head in enumerate(heads) if head not in left_out]
    for i in shown:
        number = heads[i] in ("images", "forward-eq.", "about")
        table.add_column(
            heads[i],
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number,
            min_width=None if number else 10,
        )
    for one in cells:
        texts = _row(one, known)
        table.add_row(*(cell(texts[i]) for i in shown))
    return table


def _row(one: Cell, known: Mapping[str, float]) -> list[str]:
    protocol, members = one.protocol, len(one.attack.members)
    evaluations = protocol.images * protocol.budget
    speed = known.get(one.target.label)
    about = _duration(speed * evaluations) if speed else "?"
    if one.excluded or members:
        about = "-"
    excluded = f" (excluded: {one_line(one.excluded)})" if one.excluded else ""
    return [
        one.target.label,
        one.defense.label if one.defense else "-",
        f"{one.attack.label}{excluded}",
        one.target.weights,
        str(protocol.images),
        f"of {members} cells" if members else f"<= {evaluations:,}",
        about,
    ]


def _summary(resolved: Plan, known: Mapping[str, float]) -> str:
    live = [one for one in resolved.cells if not one.excluded and not one.attack.members]
    work = sum(one.protocol.images * one.protocol.budget for one in live)
    parts = [
        known[one.target.label] * one.protocol.images * one.protocol.budget
        for one in live
        if one.target.label in known
    ]
    time = "time unknown before a first run here"
    if len(parts) == len(live):
        time = f"about {_duration(sum(parts))} of one worker's time"
    boards = len(resolved.boards)
    return f"{len(live)} cells in {boards} boards, at most {work:,} forward-equivalents, {time}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
