"""`gatebench plan`: what a plan would run, and how long it would take."""

from __future__ import annotations

from collections.abc import Sequence

import click

from bench.cli.options import plan_options, read_plan


@click.command()
@plan_options
def plan(
    plan_source: str,
    only: Sequence[str],
    images: int | None,
    device: str | None,
    overrides: Sequence[str],
) -> None:
    """Show the cells of PLAN (a suite's name or a TOML file; default ./bench.toml) without running anything.

    The time is estimated from earlier runs on this machine; before the first one there is nothing to estimate from.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bench.plans.estimates import speeds

    resolved = read_plan(plan_source, only, images, device, overrides)
    known = speeds()
    console = Console()
    for cells in resolved.boards:
        protocol = cells[0].protocol
        table = Table(
            title=Text(
                f"{protocol.dataset}, {protocol.images} images, {protocol.threat}, budget {protocol.budget}"
            ),
            title_justify="left",
        )
        for name in ("target", "defence", "attack", "weights", "images", "forward-eq.", "about"):
            table.add_column(
                name, justify="right" if name in ("images", "forward-eq.", "about") else "left"
            )
        for cell in cells:
            evaluations = protocol.images * protocol.budget
            speed = known.get(cell.target.label)
            combined = len(cell.attack.members)
            about = (
                "-"
                if cell.excluded or combined
                else (_duration(speed * evaluations) if speed else "?")
            )
            defense = cell.defense.label if cell.defense else "-"
            attack = (
                f"{cell.attack.label} (excluded: {cell.excluded})"
                if cell.excluded
                else cell.attack.label
            )
            numbers = (
                str(protocol.images),
                f"of {combined} cells" if combined else f"<= {evaluations:,}",
                about,
            )
            table.add_row(
                *(
                    Text(text)
                    for text in (cell.target.label, defense, attack, cell.target.weights, *numbers)
                )
            )
        console.print(table)
    live = [cell for cell in resolved.cells if not cell.excluded and not cell.attack.members]
    work = sum(cell.protocol.images * cell.protocol.budget for cell in live)
    parts = [
        known[cell.target.label] * cell.protocol.images * cell.protocol.budget
        for cell in live
        if cell.target.label in known
    ]
    time = (
        f"about {_duration(sum(parts))} of one worker's time"
        if len(parts) == len(live)
        else "time unknown before a first run here"
    )
    console.print(
        Text(
            f"{len(live)} cells in {len(resolved.boards)} boards, at most {work:,} forward-equivalents, {time}"
        )
    )


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
