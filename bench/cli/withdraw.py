"""`gatebench withdraw`: a row's numbers taken back."""

from __future__ import annotations

import click

from bench.terminal import say


@click.command()
@click.argument("run")
@click.argument("row")
@click.option("--reason", help="Shown in place of the numbers, one line.")
@click.option("--undo", is_flag=True, help="Put the row back.")
@click.option("--no-report", is_flag=True, help="Leave out the HTML pages.")
def withdraw(run: str, row: str, reason: str | None, undo: bool, no_report: bool) -> None:
    """Withdraw ROW of RUN: it stays on the board with the reason, and out of the ranking.

    ROW is a label ("TARGET / ATTACK"), an attack's label (on all targets), or eight or more digits
    of a key. Nothing is deleted, and --undo puts it back. An ensemble that was combined from the
    row keeps it: withdraw the ensemble too, or leave its member out of the plan.
    """
    from bench.cli.run import finish
    from bench.errors import PlanError
    from bench.runs.run import Outcome
    from bench.store.folder import RunFolder, find_run
    from bench.submissions.withdraw import withdraw as take_back

    if undo == (reason is not None) or reason == "":
        raise PlanError("give --reason TEXT, or --undo")
    folder = RunFolder(find_run(run))
    cells = take_back(folder, row, reason or "")
    finish(Outcome(folder.path), pages=not no_report)
    for cell in cells:
        say(f"{cell.label}: {'back on the board' if undo else 'withdrawn'}")
