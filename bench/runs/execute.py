"""A plan run to its end, for a command or for a test: laid out, computed, sealed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.contracts.executor import Event, Task
from bench.errors import PlanError
from bench.files.names import is_portable
from bench.plans.plan import Plan
from bench.plans.stored import StoredPlan
from bench.runs.layout import Laid, lay_out
from bench.runs.run import Outcome, Run
from bench.runs.share import Share
from bench.terminal import printable


@dataclass(frozen=True)
class RunRequest:
    """What is to be run, where, and how to go on with what is there.

    Attributes:
        plan: the resolved plan.
        command: what reproduces it.
        out: the folder of all runs.
        name: of the run, or None for the plan's own.
        data_root: where the data set lies.
        fresh: throw away what is there.
        keep: go on although shards were made in another environment.
        renew: compute again what other code or another plan made under this name.
        in_process: no workers, for debuggers and tests.
        share: compute only this share of it, in a folder of its own.
        accept: hears of the resolved plan before anything is computed, and may refuse it.
        whole: the plan that `plan` is a part of; a run of it goes on with that part.
    """

    plan: Plan
    command: str
    out: Path
    name: str | None = None
    data_root: Path | None = None
    fresh: bool = False
    keep: bool = False
    renew: bool = False
    in_process: bool = False
    share: Share | None = None
    accept: Callable[[StoredPlan], None] = lambda plan: None
    whole: Plan | None = None


class Display(Protocol):
    """What a person sees of a run."""

    def prepared(self, tasks: Sequence[Task], there: int) -> None:
        """Hears what is to be done, and how many images are there already."""

    def listen(self, event: Event) -> None:
        """Hears of every event."""


class Silence:
    """A display that shows nothing."""

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def prepared(self, tasks: Sequence[Task], there: int) -> None:
        """Shows nothing."""

    def listen(self, event: Event) -> None:
        """Shows nothing."""


def execute(
    request: RunRequest,
    display: Callable[[Laid], AbstractContextManager[Display]] = lambda laid: Silence(),
) -> tuple[Laid, Outcome]:
    """Run a plan to its end.

    Args:
        request: what, where and how.
        display: makes what is shown meanwhile.

    Raises:
        PlanError: with all mistakes at once.
        DataError: the data set is missing or damaged.
        WeightsError: weights are.
        RunFolderError: the folder is in use, or holds other results.
        KeyboardInterrupt: somebody stopped it; what is finished is kept.
    """
    if request.fresh and request.keep:
        raise PlanError("--fresh and --keep exclude each other")
    if request.name is not None:
        check_name(request.name)
    root = str(request.data_root) if request.data_root else None
    laid = lay_out(
        request.plan,
        request.out,
        request.name,
        request.command,
        root,
        fresh=request.fresh,
        renew=request.renew,
        accept=request.accept,
        suffix=request.share.suffix if request.share else "",
        whole=request.whole,
    )
    run = Run(
        laid,
        data_root=root,
        fresh=request.fresh,
        keep=request.keep,
        renew=request.renew,
        in_process=request.in_process,
        share=request.share,
    )
    with display(laid) as shown:
        return laid, run(shown.prepared, shown.listen)


def check_name(name: str) -> None:
    """Refuse a name of a run that is no name of a folder on every system.

    Raises:
        PlanError: it is none.
    """
    odd = any(c in '/\\:*?"<>|\n' for c in name) or printable(name) != name
    long = len(name) > 120 or len(os.fsencode(name)) > 240
    if odd or long or not is_portable(name) or name.startswith((".", "-", " ")):
        raise PlanError(
            f"--name {name!r}: a run is named in letters, digits, '.', '_' and '-', "
            "not starting with a dot or a dash, nor ending with a dot, at most 120 of them"
        )
