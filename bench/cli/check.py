"""`gatebench check`: a plan run and held against a baseline; fails when something got worse."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import as_json, emit, run_options


@click.command()
@run_options
@click.option("--baseline", "baseline_file", type=click.Path(path_type=Path), required=True, help="The committed file to hold it against.")
@click.option("--run", "run_name", metavar="RUN", help="Hold this finished run against the baseline; nothing is run.")
@click.option("--effect", "effects", multiple=True, metavar="MEASURE=SHARE", help="How much worse a measure may get; may be repeated.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Share of checks of an unchanged project that may fail.")
@click.option("--junit", metavar="FILE", help="Write JUnit XML.")
@click.option("--json", "json_file", metavar="FILE", help='Write everything as JSON; "-" is the terminal.')
@click.option("--markdown", metavar="FILE", help='Write a table for a pull request; "-" is the terminal.')
def check(
    baseline_file: Path,
    run_name: str | None,
    effects: Sequence[str],
    alpha: float,
    junit: str | None,
    json_file: str | None,
    markdown: str | None,
    **plan: Any,
) -> int:
    """Run PLAN (resuming what is there) and hold it against a baseline.

    \b
    Fails (exit code 8) when something got worse by more than the stated effect AND a paired test over the images says that this is no
    accident. Measures and what they may lose by default, as shares (0.01 is one point):
      surviving-saving      0.01  1 - MACs under attack / ceiling without defence
      clean-saving          0.01  the same on clean images
      clean-accuracy        0.02
      adversarial-accuracy  0.02
      attack-strength       0.01  what an attack wins on a target that has not changed

    Other data, images, threat, budget, batch, seed or attack parameters than the baseline's are refused (exit code 9): such numbers
    say nothing about each other. MACs are counted alike everywhere; time is only remarked upon.

    \b
      gatebench run quickstart --name q && gatebench baseline q --out baseline.json
      gatebench check quickstart --baseline baseline.json --junit check.xml
    """
    from bench.baseline import Baseline
    from bench.regression import check as held

    committed = Baseline.read(baseline_file)
    allowed = _effects(effects)
    folder = _folder(run_name, plan)
    if isinstance(folder, int):
        return folder
    verdict = held(committed, Baseline.of_run(folder), effects=allowed, alpha=alpha)
    _show(verdict, junit, json_file, markdown)
    return 0 if verdict.passed else 8


def _folder(run_name: str | None, plan: dict[str, Any]) -> Path | int:
    """The run to look at, made first unless it is named; an exit code where it did not come about."""
    from bench.run import find_run

    if run_name is not None:
        return find_run(run_name)
    from bench.cli.run import carried_out, report_problems

    done = carried_out(**plan)
    if done is None:
        return 130
    laid, outcome = done
    if not outcome.clean:
        report_problems(laid, outcome)
        return 4
    return outcome.folder


def _effects(given: Sequence[str]) -> dict[str, float]:
    from bench.errors import PlanError

    found = {}
    for text in given:
        name, _, value = text.partition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as error:
            raise PlanError(f"--effect {text}: expected MEASURE=SHARE, such as surviving-saving=0.005") from error
    return found


def _show(verdict: Any, junit: str | None, json_file: str | None, markdown: str | None) -> None:
    from reports import changes

    if "-" not in (json_file, markdown):
        changes.tell("Held against the baseline", changes.held_lines(verdict), verdict.notes)
    emit(junit, changes.junit(verdict))
    emit(json_file, as_json(changes.verdict_document(verdict)))
    if markdown:
        title = "gatebench check: nothing got worse" if verdict.passed else "gatebench check: something got worse"
        emit(markdown, changes.markdown(title, changes.HELD, changes.held_rows(verdict), [verdict.summary(), *verdict.notes]))
    click.echo(verdict.summary(), err="-" in (json_file, markdown))
