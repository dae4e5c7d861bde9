"""`gatebench check`: run a plan and compare it with a baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import emit, run_options, run_request
from bench.terminal import say

if TYPE_CHECKING:
    from bench.contracts.report import RegressionReport
    from bench.regression.baseline import Baseline


@click.command()
@run_options
@click.option(
    "--baseline",
    "baseline_file",
    type=click.Path(path_type=Path),
    required=True,
    help="The committed file to hold it against.",
)
@click.option(
    "--run",
    "run_name",
    metavar="RUN",
    help="Hold this finished run against the baseline; nothing is run.",
)
@click.option(
    "--effect",
    "effects",
    multiple=True,
    metavar="MEASURE=SHARE",
    help="How much worse a measure may get; may be repeated.",
)
@click.option(
    "--alpha",
    type=float,
    default=0.05,
    show_default=True,
    help="Share of checks of an unchanged project that may fail.",
)
@click.option("--junit", metavar="FILE", help="Write JUnit XML.")
@click.option(
    "--json", "json_file", metavar="FILE", help='Write everything as JSON; "-" is the terminal.'
)
@click.option(
    "--markdown", metavar="FILE", help='Write a table for a pull request; "-" is the terminal.'
)
@click.option("--use", default="verdicts", show_default=True, help="The report of the verdict.")
def check(
    baseline_file: Path,
    run_name: str | None,
    effects: Sequence[str],
    alpha: float,
    junit: str | None,
    json_file: str | None,
    markdown: str | None,
    use: str,
    **plan: Any,
) -> int:
    """Run PLAN (resuming what is there) and hold it against a baseline.

    Fails (exit code 8) when something got worse by more than the stated effect AND a paired test
    over the images is significant. Measures, and what they may lose by default, as shares (0.01 is
    one point):

    \b
      surviving-saving      0.01  1 - MACs under attack / ceiling without defense
      clean-saving          0.01  the same on clean images
      clean-accuracy        0.02
      adversarial-accuracy  0.02
      attack-strength       0.01  what an attack wins on an unchanged target

    What other code, other libraries or another plan left under this name is computed again. Other
    data, images, threat, budget, batch, seed or attack parameters than the baseline's are refused
    (exit code 9): such numbers say nothing about each other. MACs are counted alike everywhere;
    time is only remarked upon.

    \b
      gatebench run quickstart --name q
      gatebench baseline q --out baseline.json
      gatebench check quickstart --baseline baseline.json --junit check.xml
    """
    from bench.errors import GatebenchError, PlanError
    from bench.regression.baseline import Baseline
    from bench.regression.check import check as held
    from bench.regression.check import resolve_effects

    files = junit, json_file, markdown
    report = _reporter(use)
    try:
        if files.count("-") > 1:
            raise PlanError('only one document can go to the terminal: "-" was given twice')
        if plan["keep"]:
            raise PlanError(
                "--keep would judge results that other code made; check computes those again"
            )
        allowed = resolve_effects(_effects(effects), alpha)
        committed = Baseline.read(baseline_file)
        folder = _folder(run_name, committed, plan, aside="-" in files)
        if isinstance(folder, Unfinished):
            _write(files, report.refused(folder.reason))
            return folder.exit_code
        verdict = held(committed, Baseline.of_run(folder), effects=allowed, alpha=alpha)
    except GatebenchError as error:  # so that no older file is taken for the result of this check
        _write(files, report.refused(str(error)))
        raise
    _write(files, (report.junit(verdict), report.json(verdict), report.markdown(verdict)))
    if "-" in files:
        say(verdict.summary(), err=True)
    else:
        report.terminal(verdict)
    return 0 if verdict.passed else 8


def _reporter(use: str) -> RegressionReport:
    from bench.plugins import registry

    made: RegressionReport = registry.load("regression", use)()
    return made


def _write(files: Sequence[str | None], contents: Sequence[str | bytes]) -> None:
    for file, content in zip(files, contents, strict=True):
        emit(file, content)


@dataclass(frozen=True)
class Unfinished:
    """A run that did not come about: what the command ends with, and why."""

    exit_code: int
    reason: str


def _folder(
    run_name: str | None, committed: Baseline, plan: dict[str, Any], *, aside: bool
) -> Path | Unfinished:
    """The run to look at, made first unless it is named."""
    from bench.regression.baseline import Baseline
    from bench.regression.matching import check_plan
    from bench.store.folder import find_run

    if run_name is not None:
        return find_run(run_name, plan["out"])
    from bench.cli.run import execute_with_progress, report_problems

    request = replace(
        run_request(**plan),
        renew=True,
        accept=lambda stored: check_plan(committed, Baseline.of_plan(stored)),
    )
    outcome = execute_with_progress(request, aside=aside)
    if outcome is None:
        return Unfinished(130, "the run was stopped")
    if not outcome.is_clean:
        report_problems(outcome)
        return Unfinished(4, "\n".join(outcome.problems))
    return outcome.folder


def _effects(given: Sequence[str]) -> dict[str, float]:
    from bench.errors import PlanError

    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise PlanError(
                f"--effect {text}: expected MEASURE=SHARE, such as surviving-saving=0.005"
            ) from error
    return found
