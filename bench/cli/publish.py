"""`gatebench publish`: the boards of several runs as a static site for any host."""

from __future__ import annotations

from pathlib import Path

import click

from bench.terminal import say


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write; an older site there is replaced as a whole.",
)
@click.option("--title", default="gatebench: boards", show_default=True, help="Of the first page.")
@click.option(
    "--shown",
    default=8,
    show_default=True,
    type=click.IntRange(0),
    help="Saved images shown of every cell.",
)
@click.option(
    "--edition",
    default="",
    metavar="NAME",
    help="What this version is called; default: its number.",
)
@click.option("--no-members", is_flag=True, help="Leave out the cells that an ensemble is made of.")
def publish(
    runs: tuple[str, ...], out: Path, title: str, shown: int, edition: str, no_members: bool
) -> None:
    """Write the boards of RUN... as a static site that any host can serve.

    \b
    RUN is a run's folder, or its name in the folder of all runs. The site holds
      index.html       every board with its answers, and the commands that repeat the runs
      01-NAME/ ...     a folder a board: the leaderboard, further pages, pictures, board.csv
      rows.parquet     the row of every image, without its pictures
      versions.json    the tables of this version and of those that were here before
      history.html     what changed since then, row by row, where something did
      SHA256SUMS       the digest of every file: `sha256sum -c SHA256SUMS`

    Nothing in it is asked of the network, and no server is needed: copy the folder to a host of
    static files, or open index.html from disk.

    \b
      gatebench publish cifar10 cifar10-patch --out site
      python -m http.server --directory site
    """
    from bench.cli.report import write_report
    from bench.store.folder import find_run

    folders = [find_run(run) for run in runs]
    options = {"title": title, "shown": shown, "members": not no_members}
    options |= {"earlier": out, "version_name": edition}
    say(str(write_report(folders, out, name="publication", options=options)))
