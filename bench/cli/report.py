"""`gatebench report`: the results of one or more runs as pages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.terminal import remark, say

if TYPE_CHECKING:
    from bench.contracts.report import BoardReport


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write. Default: RUN/report, or ./report for several runs.",
)
@click.option("--use", "name", default="leaderboard", show_default=True, help="The report to make.")
@click.option(
    "--browse", type=click.IntRange(0), help="Images to browse on a cell's page, at most."
)
@click.option(
    "--full",
    is_flag=True,
    help="Leaderboard: images to browse on every cell's page, and pages for all cells of a large "
    "board.",
)
@click.option(
    "--no-members",
    is_flag=True,
    help="Publication: leave out the cells that an ensemble is made of.",
)
def report(
    runs: tuple[str, ...],
    out: Path | None,
    name: str,
    browse: int | None,
    full: bool,
    no_members: bool,
) -> None:
    """Write the results of RUN... as pages that work from disk.

    RUN is a run's folder, or its name in the folder of all runs. Several runs, or a run of several
    protocols, make an index over their boards. An older report at the same place is replaced as a
    whole; a folder that holds anything else is left alone.
    """
    from bench.store.folder import find_run

    folders = [find_run(run) for run in runs]
    place = out or (folders[0] / "report" if len(folders) == 1 else Path("report"))
    options: dict[str, Any] = {} if browse is None else {"browse": browse}
    options |= {"full": True} if full else {}
    options |= {"members": False} if no_members else {}
    index = write_report(folders, place, name=name, options=options)
    say(str(index))


def write_report(
    folders: list[Path], out: Path, *, name: str = "leaderboard", options: Mapping[str, Any] = {}
) -> Path:
    """Render every board of these runs into `out` and return the page to open.

    Cells whose rows cannot be believed have no numbers there, and are said.
    What becomes of several boards is the report's own affair (`BoardReport.render_all`).
    """
    from bench.errors import GatebenchError, PlanError, PluginError, RunFolderError, in_words
    from bench.files.marked import filling
    from bench.plugins import registry
    from bench.results.board import load_boards

    boards = [board for folder in folders for board in load_boards(folder, whole=True)]
    if not boards:
        raise RunFolderError(
            f"no board in {', '.join(map(str, folders))}", hint="'gatebench run' fills a run"
        )
    make: Callable[..., BoardReport] = registry.load("report", name)
    try:
        chosen = make(**options)
    except TypeError as error:
        raise PlanError(f"report {name!r} does not take these options: {error}") from error
    except GatebenchError:
        raise
    except Exception as error:  # it may be anybody's
        raise PluginError(f"report {name!r} cannot be made: {in_words(error)}") from error
    if not callable(getattr(chosen, "render_all", None)):
        raise PluginError(f"report {name!r} is no bench.api.BoardReport")
    for cell in (cell for board in boards for cell in board.cells):
        if cell.refused:
            remark(f"{cell.label} is left without numbers: {cell.reason}")
    with filling(out):
        chosen.render_all(boards, out)
    index = out / "index.html"
    return index if index.is_file() else out
