"""`gatebench beat`: attack again, from the saved images of a row."""

from __future__ import annotations

from pathlib import Path

import click

from bench.terminal import counted, say


@click.command()
@click.argument("run")
@click.argument("row")
@click.option(
    "--use", default="onward", show_default=True, help="The attack; it takes a parameter start."
)
@click.option("--budget", type=click.IntRange(1), help="Forward-equivalents an image.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of all runs; default: that of RUN.",
)
@click.option("--data-root", type=click.Path(path_type=Path), help="Where the data set lies.")
@click.option(
    "--in-process", is_flag=True, help="No workers: everything in this process, for debuggers."
)
@click.option("--no-report", is_flag=True, help="Leave out the HTML pages.")
def beat(
    run: str,
    row: str,
    use: str,
    budget: int | None,
    out: Path | None,
    data_root: Path | None,
    in_process: bool,
    no_report: bool,
) -> int:
    """Attack again, beginning at the saved images of ROW of RUN.

    ROW is a label ("TARGET / ATTACK"), or eight or more digits of a key, as on the cell's page.
    Nothing is downloaded, and the attack that made the images is not needed. Images that are not
    beaten stay as they are. The result is a run of its own; `gatebench merge` puts it on one board
    with RUN, and `gatebench submit` packs it for whoever keeps the board. With another budget than
    the board's it is another board.
    """
    from dataclasses import replace

    from bench.cli.run import execute_with_progress, finish
    from bench.errors import PlanError, RunFolderError, did_you_mean
    from bench.plans.components import attack_component
    from bench.plans.plan import Plan, RunOptions
    from bench.plans.stored import read_plan
    from bench.results.board import load_boards
    from bench.results.cells import read_cell
    from bench.runs.execute import RunRequest
    from bench.store.folder import RunFolder, find_run
    from bench.terminal import one_line

    folder = RunFolder(find_run(run))
    cells = read_plan(folder).cells
    chosen = [
        key
        for key, cell in cells.items()
        if row == cell.label or (len(row) >= 8 and key.startswith(row))
    ]
    if len(chosen) != 1:
        near = did_you_mean(row, [cell.label for cell in cells.values()])
        raise PlanError(f"{folder.path} has {counted(len(chosen), 'row')} {row!r}{near}")
    (key,) = chosen
    cell = cells[key]
    begun = read_cell(folder.cell(key), "", cell, whole=True).cell
    if begun.refused:
        raise RunFolderError(
            f"{cell.label!r} is nothing to begin at: {begun.reason}",
            hint="'gatebench verify' says more",
        )
    protocol = cell.protocol if budget is None else replace(cell.protocol, budget=budget)
    attack = attack_component(use, {"start": key}, f"{use} from {cell.attack.label}")
    made = replace(cell, attack=attack, protocol=protocol, excluded="")
    outcome = execute_with_progress(
        RunRequest(
            plan=Plan(f"{folder.name}, from {key[:12]}", ((made,),), RunOptions()),
            command=f"gatebench beat {folder.name} {key[:12]}",
            out=out or folder.path.parent,
            name=f"{folder.name}-beat-{key[:12]}",
            data_root=data_root,
            in_process=in_process,
        )
    )
    if outcome is None:
        return 130
    finish(outcome, pages=not no_report)
    boards = [*load_boards(folder.path), *load_boards(outcome.folder)]
    for one in (one for board in boards for one in board.cells):
        wanted = one.key == key or one.key in outcome.statuses
        if wanted and one.adversarial_macs is not None:
            say(f"{one.adversarial_macs:,.0f} MACs  {one_line(one.label)}")
    return 0 if outcome.is_clean else 4
