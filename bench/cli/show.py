"""`gatebench show`: the table of a run in the terminal."""

from __future__ import annotations

import click


@click.command()
@click.argument("run")
def show(run: str) -> None:
    """Print the leaderboard of RUN (a folder, or the name of one in runs/)."""
    from bench.plugins import registry
    from bench.results.board import load_boards
    from bench.store.folder import find_run

    terminal = registry.load("report", "terminal")()
    for board in load_boards(find_run(run)):
        terminal.render(board)
