"""`gatebench merge`: several runs in one."""

from __future__ import annotations

from pathlib import Path

import click

from bench.terminal import counted, say


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the union; made, or an earlier merge that is to be completed.",
)
@click.option(
    "--keep",
    is_flag=True,
    help="Unite what was made in other environments, and flag the cells that mix both.",
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML pages.")
def merge(runs: tuple[str, ...], out: Path, keep: bool, no_report: bool) -> int:
    """Unite RUN... (folders, or names of folders in runs/) in one run.

    The runs are shares of one plan (`gatebench run PLAN --share 2/5`), or runs of the same protocol
    and images with other targets, defenses or attacks. What differs otherwise is refused by name.
    Shards are copied as they are; cells that became whole are sealed. Shares of a plan, united,
    are the same bytes as one uninterrupted run.

    Exit code 4 while a cell is not whole, or failed.
    """
    from bench.cli.run import finish
    from bench.plans.stored import read_plan
    from bench.runs.merge import merge as unite
    from bench.store.folder import RunFolder, find_run

    outcome = unite([find_run(run) for run in runs], out, keep=keep, tell=say)
    cells = read_plan(RunFolder(out)).cells
    finish(outcome, pages=not no_report)
    left = [cell.label for key, cell in cells.items() if key not in outcome.statuses]
    for label in left[:10]:
        say(f"not whole yet: {label}", err=True)
    if len(left) > 10:
        say(f"not whole yet: {counted(len(left) - 10, 'more cell')}", err=True)
    say(f"{len(cells) - len(left)} of {counted(len(cells), 'cell')} in {out}")
    return 4 if left or not outcome.is_clean else 0
