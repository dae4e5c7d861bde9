"""`gatebench accept`: what was handed in, judged and added to a board."""

from __future__ import annotations

from pathlib import Path

import click

from bench.terminal import counted, say


@click.command()
@click.argument(
    "files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path)
)
@click.option("--into", required=True, metavar="RUN", help="The run whose board they join.")
@click.option("--data-root", type=click.Path(), help="Where the data set lies.")
@click.option(
    "--device", default="cpu", show_default=True, help="Where to evaluate: cpu, cuda, mps."
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML pages.")
def accept(
    files: tuple[Path, ...], into: str, data_root: str | None, device: str, no_report: bool
) -> None:
    """Judge archives that were handed in (see `gatebench submit`), and add their rows to a board.

    An archive is data: nothing in it is executed or unpacked to disk. Every image is held against
    data set, digests and threat, and evaluated here by the board's own targets; ptflops counts some
    executions. What the archive claims must be what is measured here, as integers. The rows join
    the board as submitted, with who, what and links.

    Exit code 10 where an archive is refused: one sentence says why, and nothing is written.
    """
    from bench.cli.run import finish
    from bench.plans.stored import read_plan
    from bench.runs.run import Outcome
    from bench.store.folder import RunFolder, find_run
    from bench.store.provenance import deterministic, resolve_devices
    from bench.submissions.accept import accept as judge

    run = RunFolder(find_run(into))
    deterministic(threads=1)
    found = judge(files, run, data_root=data_root, device=str(resolve_devices(device)[0]), tell=say)
    for remark in found.remarks:
        say(f"remark: {remark}", err=True)
    for label in found.there:
        say(f"{label}: is on the board already")
    if found.added:
        finish(Outcome(run.path), pages=not no_report)
    say(
        f"{counted(len(found.added), 'row')} accepted; "
        f"{counted(len(read_plan(run).cells), 'cell')} in {run.path}"
    )
