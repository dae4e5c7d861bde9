"""Removing what lies at a place, whatever it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bench.files.writing import refused


def remove(path: Path) -> None:
    """Remove a file, a folder with all in it, or a link; what a link points to stays.

    Raises:
        DiskError: the disk refused.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif os.path.lexists(path):
            path.unlink()
    except OSError as error:
        raise refused(error, path, "remove") from error
