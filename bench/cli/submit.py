"""`gatebench submit`: rows of a run as one archive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.terminal import say


@click.command()
@click.argument("run")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="The archive to write, a zip file.",
)
@click.option("--who", required=True, help="Who hands in, as shown beside the rows.")
@click.option("--what", required=True, help="What the images are, in a few sentences.")
@click.option("--license", required=True, help="Of the images, an SPDX identifier: CC-BY-4.0.")
@click.option("--paper", default="", metavar="LINK", help="Where the attack is described.")
@click.option("--code", default="", metavar="LINK", help="Where its code lies.")
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Only rows with TEXT in their label; may be repeated. Default: all attacks.",
)
@click.option(
    "--board",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Which of the run's boards.",
)
def submit(
    run: str,
    out: Path,
    who: str,
    what: str,
    license: str,
    paper: str,
    code: str,
    only: Sequence[str],
    board: int,
) -> None:
    """Pack rows of RUN as one archive: images, what was measured, plan, environment, who and what.

    \b
    Whoever keeps a board takes it in with one command, and needs none of your code:
      gatebench submit demo --only mine --out mine.zip --who 'A. Name' \\
        --what 'Margin descent with ...' --license CC-BY-4.0
      gatebench accept mine.zip --into board

    The format is described in docs/submissions.md; other programs can write it too.
    """
    from bench.store.folder import RunFolder, find_run
    from bench.submissions.submit import Words
    from bench.submissions.submit import submit as pack

    words = Words(who, what, license, paper, code)
    for cell in pack(RunFolder(find_run(run)), out, words, only=only, board=board):
        say(cell.label)
    say(str(out))
