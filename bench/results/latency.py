"""What `gatebench latency` wrote, of the targets that a run has now. No torch here."""

from __future__ import annotations

from dataclasses import replace

from bench.plans.stored import StoredPlan
from bench.results.transfer import readable_digest
from bench.store.folder import RunFolder
from bench.store.latency import Latency


def read_latency(folder: RunFolder, plan: StoredPlan) -> Latency | None:
    """The times of a run; those of targets whose cells were computed again since, or that are
    others under their labels, are left out.

    Args:
        folder: of the run.
        plan: that is stored in it.

    Returns:
        The times; None where there are none.

    Raises:
        RunFolderError: latency.json is damaged.
    """
    found = folder.latency()
    if found is None or not found.cells:  # older files do not say what they were made of
        return found
    cells = plan.cells
    same = {
        cells[key].who
        for key, digest in found.cells.items()
        if key in cells and digest == readable_digest(folder.cell(key))
    }
    entries = tuple(one for one in found.entries if (one.target, one.defense) in same)
    return replace(found, entries=entries, cells={}) if entries else None
