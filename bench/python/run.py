"""`bench.run`, `bench.open_run`, `bench.open_board`: runs from a program."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import GatebenchError, PlanError
from bench.python.result import Result
from bench.terminal import counted

if TYPE_CHECKING:
    from bench.results.records import Board
    from bench.runs.execute import RunRequest
    from bench.runs.layout import Laid
    from bench.runs.run import Outcome


def run(
    plan: str | Path | Mapping[str, Any],
    *,
    only: Sequence[str] = (),
    overrides: Sequence[str] = (),
    images: int | None = None,
    device: str | None = None,
    name: str | None = None,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    fresh: bool = False,
    keep: bool = False,
    in_process: bool = False,
) -> Result:
    """Run a plan as `gatebench run` does, without its pages; what is there already is kept.

    The work is done by worker processes. A script that calls this needs what Python asks of every
    script that starts processes: `if __name__ == "__main__":` around it. A cell that failed raises
    nothing; `Result.problems` says which have no numbers.

    Args:
        plan: a suite's name, a TOML file, or what such a file would hold.
        only: labels, or parts of labels, of the cells to run.
        overrides: "protocol.budget=60" and the like.
        images: how many; overrides the plan.
        device: "cpu", "cuda" …; overrides the plan.
        name: of the run; by default the protocol's plus six digits of the plan's hash.
        out: folder of all runs.
        data_root: where data sets lie.
        fresh: compute everything again.
        keep: go on although finished parts were made in another environment.
        in_process: no worker processes.

    Returns:
        What the run came to.

    Raises:
        PlanError: with all mistakes at once.
        DataError: the data set is missing or damaged.
        WeightsError: the weights are missing or damaged.
        RunFolderError: the folder is in use, or holds other results.
    """
    from bench.executors.processes import check_guarded
    from bench.plans.resolve import load_plan, resolve_document
    from bench.python.handing import checked_folder
    from bench.runs.execute import RunRequest
    from bench.runs.headroom import measure_headroom

    check_guarded()
    folder, root = checked_folder(out, "out"), checked_folder(data_root, "data_root")
    extra = [f"protocol.images={images}"] if images is not None else []
    extra += [f'run.device="{device}"'] if device is not None else []
    if isinstance(plan, Mapping):
        if only or overrides or extra:
            raise PlanError("a plan that is no file is changed where it is made: set its values")
        resolved = resolve_document(plan, "bench.run")
    else:
        resolved = load_plan(plan, overrides=[*overrides, *extra], only=only)
    request = RunRequest(
        plan=resolved,
        command=f"gatebench run {resolved.source}",
        out=folder or Path(),
        name=name,
        data_root=root,
        fresh=fresh,
        keep=keep,
        in_process=in_process,
    )
    made = _executed(request)[1].folder
    with undisturbed():
        measure_headroom(request, made, lambda line: None)
    return open_run(made)


def open_run(run: str | Path) -> Result:
    """The results of a run.

    Args:
        run: its folder, or the name of one in runs/.

    Raises:
        RunFolderError: there is none, or it is damaged.
    """
    from bench.results.board import load_boards
    from bench.store.folder import find_run

    folder = find_run(str(run))
    return Result(folder, tuple(load_boards(folder, whole=True)))


def open_board(run: str | Path, number: int = 1) -> Board:
    """One board of a run, as reports see it.

    Args:
        run: its folder, or the name of one in runs/.
        number: which, from 1, where threats, budgets or seeds make several.

    Raises:
        RunFolderError: there is none, or it is damaged.
        PlanError: the run has fewer boards.
    """
    boards = open_run(run).boards
    if not 1 <= number <= len(boards):
        raise PlanError(
            f"{run} has {counted(len(boards), 'board')}, so there is no number {number}"
        )
    return boards[number - 1]


def computed(request: RunRequest) -> Result:
    """Run to the end, and read what was found; torch is given back as it was.

    Raises:
        GatebenchError: something that was asked for has no numbers.
    """
    laid, outcome = _executed(request)
    check_outcome(laid, outcome)
    return open_run(outcome.folder)


def _executed(request: RunRequest) -> tuple[Laid, Outcome]:
    from bench.runs.execute import execute

    if not request.in_process:
        return execute(request)
    from bench.store.provenance import deterministic

    with undisturbed():
        deterministic(threads=request.plan.options.threads)
        return execute(request)


def check_outcome(laid: Laid, outcome: Outcome) -> None:
    """Refuse a run in which something that was asked for has no numbers.

    Raises:
        GatebenchError: says what, and why; the traceback of a plugin is in its notes.
    """
    from bench.errors import ContractBroken

    wrong = {
        key: status for key, status in outcome.statuses.items() if status not in ("ok", "skipped")
    }
    if wrong:
        said = [
            f"{laid.cells[key].label}: {status}, {outcome.reasons[key]}"
            for key, status in wrong.items()
        ]
        kind = ContractBroken if set(wrong.values()) == {"invalid"} else GatebenchError
        error = kind(f"the run has cells without numbers: {'; '.join(said[:4])}")
        for key in list(wrong)[:1]:
            sealed = laid.folder.cell(key).sealed()
            if sealed is not None and sealed.detail:
                error.add_note(sealed.detail)
        raise error
    members = [member for cell in laid.cells.values() for member in cell.attack.members]
    skipped = [
        f"{cell.attack.label}: {outcome.reasons[key]}"
        for key, cell in laid.cells.items()
        if outcome.statuses[key] == "skipped" and not cell.excluded and cell.attack not in members
    ]
    if skipped:
        raise PlanError(
            "attacks that were asked for do not run here, so nothing of them was measured: "
            f"{'; '.join(skipped)}"
        )


ALONE = threading.RLock()
"""Held by the one thread that evaluates in this process."""


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Give torch back as it was: the program has its own threads, seeds and settings.

    Other threads wait: torch, numpy and Python have one of these for the whole process.
    """
    import random

    import numpy as np
    import torch

    from bench.store.precision import precision_kept

    threads, state = torch.get_num_threads(), torch.get_rng_state()
    kind, grad = torch.get_default_dtype(), torch.is_grad_enabled()
    strict, cudnn = torch.get_deterministic_debug_mode(), torch.backends.cudnn
    flags = cudnn.benchmark, cudnn.deterministic
    others = np.random.get_state(), random.getstate()
    with ALONE, torch.inference_mode(False), precision_kept():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_rng_state(state)
            torch.set_default_dtype(kind)
            torch.set_grad_enabled(grad)
            torch.set_deterministic_debug_mode(strict)
            cudnn.benchmark, cudnn.deterministic = flags
            np.random.set_state(others[0])
            random.setstate(others[1])
