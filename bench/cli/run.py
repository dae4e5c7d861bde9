"""`gatebench run`: attack, judge, count, rank, render."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import command_line, read_plan, run_options
from bench.terminal import say

if TYPE_CHECKING:
    from bench.runs.layout import Laid
    from bench.runs.run import Outcome


@click.command()
@run_options
@click.option("--no-report", is_flag=True, help="Leave out the HTML pages.")
def run(no_report: bool, **plan: Any) -> int:
    """Run PLAN (a suite's name or a TOML file; default ./bench.toml).

    What is there already is kept: a run that was stopped, killed or partly failed goes on with the
    same command. It ends with the table and the path of the page.
    """
    done = carried_out(**plan)
    if done is None:
        return 130
    _finish(*done, pages=not no_report)
    return 0 if done[1].clean else 4


def carried_out(
    plan_source: str,
    only: Sequence[str],
    images: int | None,
    device: str | None,
    overrides: Sequence[str],
    name: str | None,
    out: Path,
    data_root: Path | None,
    fresh: bool,
    keep: bool,
    in_process: bool,
    renew: bool = False,
    accept: Callable[[Mapping[str, Any]], None] = lambda document: None,
    aside: bool = False,
) -> tuple[Laid, Outcome] | None:
    """Run a plan to its end, with progress on the way; None if Ctrl-C stopped it, which was said.

    Args:
        renew: what other code or another plan made under this name is computed again instead of
            being refused.
        accept: hears of the resolved plan before anything is written, and may refuse it.
        aside: progress goes to stderr, for commands whose document goes to stdout.
    """
    from bench.cli.progress import make_display
    from bench.errors import PlanError
    from bench.runs.layout import lay_out
    from bench.runs.run import Run

    if fresh and keep:
        raise PlanError("--fresh and --keep exclude each other")
    plan = read_plan(plan_source, only, images, device, overrides)
    command = " ".join(
        [command_line(plan_source, images, overrides), *(f"--only {part!r}" for part in only)]
    )
    root = str(data_root) if data_root else None
    laid = lay_out(
        plan,
        out,
        None if name is None else _checked(name),
        command,
        root,
        fresh=fresh,
        renew=renew,
        accept=accept,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    work = Run(laid, data_root=root, fresh=fresh, keep=keep, renew=renew, in_process=in_process)
    display = make_display(laid, aside=aside)
    try:
        with display:
            return laid, work(display.prepared, display.listen)
    except KeyboardInterrupt:
        say(
            f"\nstopped; everything finished is kept in {laid.folder.path}. The same command goes on from there.",
            err=True,
        )
        return None


def _checked(name: str) -> str:
    from bench.errors import PlanError

    if (
        not name
        or name.startswith(".")
        or any(c in name for c in '/\\:*?"<>|')
        or any(ord(c) < 32 for c in name)
        or len(name) > 120
    ):
        raise PlanError(
            f"--name {name!r}: a run is named in letters, digits, '.', '_' and '-', not starting "
            "with a dot"
        )
    return name


def _finish(laid: Laid, outcome: Outcome, *, pages: bool) -> None:
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
    if pages:
        from bench.cli.report import write_report

        page = write_report([outcome.folder], outcome.folder / "report")
    for board in boards:  # printed last: a reader that goes away loses no file
        terminal.render(board, None)
    if page is not None:
        say(f"page: {page}")
    report_problems(laid, outcome)


def problems_of(laid: Laid, outcome: Outcome) -> list[str]:
    """Which cells have no numbers, and why; a line a reason."""
    reasons: dict[tuple[str, str], int] = {}
    for key, status in outcome.statuses.items():
        if status not in ("ok", "skipped"):
            reason = (status, (laid.folder.cell(key).sealed() or {}).get("reason", ""))
            reasons[reason] = reasons.get(reason, 0) + 1
    return [
        f"{status}, {count} of {len(outcome.statuses)} cells: {reason}"
        for (status, reason), count in reasons.items()
    ]


def report_problems(laid: Laid, outcome: Outcome) -> None:
    """Say which cells have no numbers, and where to read on."""
    lines = problems_of(laid, outcome)
    for line in lines:
        say(line, err=True)
    if lines:
        say(
            f"details are in {outcome.folder / 'log.txt'}; the same command tries these cells again",
            err=True,
        )
