"""What somebody else left where a run is to be made."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bench.datasets.files import is_junk
from bench.errors import RunFolderError
from bench.files.writing import refused


def check_no_others(run: Path, plan: str, files: tuple[str, ...]) -> None:
    """Refuse a folder that somebody else filled: a run would write over the files in it.

    A folder with a plan is a run's, whatever else it holds. One without is, where it holds nothing
    but what a run leaves there, since a run may have lost its plan.

    Args:
        run: the folder; it need not be there.
        plan: name of the file that holds a run's plan.
        files: names of all files that a run has beside its folders.

    Raises:
        RunFolderError: naming one thing that no run leaves.
        DiskError: the folder cannot be read.
    """
    if not run.is_dir() or os.path.lexists(run / plan):
        return
    ours = re.compile(rf"{'|'.join(map(re.escape, files))}|cells|report|board-\d\d+")
    try:
        names = _names(run)
        strange = [name for name in names if not ours.fullmatch(name)]
        if "cells" not in names:  # a run makes it before anything else
            strange = strange or names
        elif (run / "cells").is_dir():
            inside = _names(run / "cells")
            keys = re.compile(r"[0-9a-f]{8,64}")
            strange += [f"cells/{name}" for name in inside if not keys.fullmatch(name)]
    except OSError as error:
        raise refused(error, run, "read") from error
    if strange:
        raise RunFolderError(
            f"{run} is no run of gatebench: it holds {strange[0]}, but no {plan}; "
            "it was left alone",
            hint="choose another folder with --out, or another name with --name",
        )


def _names(folder: Path) -> list[str]:
    """What lies in a folder, in order, but for what file managers leave."""
    return sorted(name for name in os.listdir(folder) if not is_junk(name))
