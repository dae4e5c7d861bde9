"""`gatebench run`: attack, judge, count, rank, render."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import batch_words, run_options, run_request
from bench.terminal import LONGEST_LINE, counted, one_line, say

if TYPE_CHECKING:
    from bench.cli.progress import Live, PlainDisplay
    from bench.runs.execute import RunRequest, Silence
    from bench.runs.layout import Laid
    from bench.runs.run import Outcome


@click.command()
@run_options
@click.option(
    "--share",
    metavar="I/N",
    help="Compute only part I of N, in a folder of its own; 'gatebench merge' unites the parts.",
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML pages.")
@click.option("-q", "--quiet", is_flag=True, help="No progress, no table: only where the page is.")
@click.option("-v", "--verbose", is_flag=True, help="A line for everything that is computed.")
def run(no_report: bool, quiet: bool, verbose: bool, **options: Any) -> int:
    """Run PLAN (a suite's name or a TOML file; default ./bench.toml).

    What is there already is kept: a run that was stopped, killed or partly failed goes on with the
    same command. It ends with the table and the path of the page.
    """
    from bench.runs.headroom import measure_headroom

    request = run_request(**options)
    outcome = execute_with_progress(request, quiet=quiet, verbose=verbose)
    if outcome is None:
        return 130
    if options["share"] is not None:
        report_problems(outcome)
        say(
            f"share {options['share']}: {counted(outcome.computed, 'image')} computed "
            f"in {outcome.folder}"
        )
        return 0 if outcome.is_clean else 4
    measure_headroom(
        request,
        outcome.folder,
        lambda line: None if quiet else say(one_line(line, LONGEST_LINE), err=True),
    )
    finish(outcome, pages=not no_report, table=not quiet)
    return 0 if outcome.is_clean else 4


def execute_with_progress(
    request: RunRequest, *, aside: bool = False, quiet: bool = False, verbose: bool = False
) -> Outcome | None:
    """Run to the end, with progress on the way; None if Ctrl-C stopped it, which was said.

    Args:
        request: what to run.
        aside: progress goes to stderr, for commands whose document goes to stdout.
        quiet: no progress is shown.
        verbose: a line for everything that is computed, on a terminal too.
    """
    from bench.cli.progress import make_display
    from bench.runs.execute import Silence, execute

    where = request.out / (request.name or "")
    if (taken := batch_words(request.plan)) and not quiet:
        say(taken, err=aside)

    def display(laid: Laid) -> PlainDisplay | Live | Silence:
        nonlocal where
        where = laid.folder.path
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return Silence() if quiet else make_display(laid, aside=aside, plain=verbose)

    try:
        return execute(request, display)[1]
    except KeyboardInterrupt:
        say(
            f"\nstopped; everything finished is kept in {where}. "
            "The same command goes on from there.",
            err=True,
        )
        return None


def finish(outcome: Outcome, *, pages: bool, table: bool = True) -> None:
    """The board's files, the table, what went wrong, and where the page is."""
    from bench.plugins import registry
    from bench.results.board import load_boards

    boards = load_boards(outcome.folder)
    sheets, terminal = registry.load("report", "sheets")(), registry.load("report", "terminal")()
    for number, board in enumerate(boards, 1):
        sheets.render(
            board, outcome.folder if len(boards) == 1 else outcome.folder / f"board-{number:02d}"
        )
    page = None
    try:
        if pages:
            from bench.cli.report import write_report

            page = write_report([outcome.folder], outcome.folder / "report")
    finally:  # printed last, whatever becomes of the pages: a reader that goes away loses no file
        for board in boards if table else []:
            terminal.render(board, None)
        if page is not None:
            say(f"page: {page}")
        report_problems(outcome)


def report_problems(outcome: Outcome) -> None:
    """Say which cells have no numbers, and where to read on."""
    for line in outcome.problems:
        say(one_line(line, LONGEST_LINE), err=True)
    if outcome.problems:
        log = outcome.folder / "log.txt"
        say(f"details are in {log}; the same command tries these cells again", err=True)
