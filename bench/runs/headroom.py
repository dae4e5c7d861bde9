"""What a run ends with where its plan asks for headroom: the reference runs of its boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import in_words

if TYPE_CHECKING:
    from bench.runs.execute import RunRequest


def measure_headroom(request: RunRequest, folder: Path, tell: Callable[[str], None]) -> None:
    """Run the references that a plan asks for; what they raise costs the run nothing.

    A reference run of others' plugins may take as long as its batches may in the run, times its
    multiple of the budget.

    Args:
        request: of the run.
        folder: of the run, whose cells are done.
        tell: hears of each reference run, and of one that fails.
    """
    if not request.plan.pages.get("headroom") or request.share is not None:
        return
    from bench.analysis.headroom import measure_planned
    from bench.store.folder import RunFolder
    from bench.store.provenance import deterministic, resolve_devices

    deterministic(threads=1)
    options = request.plan.options
    try:
        measure_planned(
            RunFolder(folder),
            device=str(resolve_devices(options.device)[0]),
            data_root=None if request.data_root is None else str(request.data_root),
            deadline=options.deadline,
            tell=lambda line: tell(f"headroom: {line}"),
        )
    except Exception as error:  # attacks and targets may be anybody's
        tell(
            f"headroom was not measured: {in_words(error)}; 'gatebench headroom {folder}' tries "
            "again"
        )
