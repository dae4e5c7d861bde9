"""Where a user's own data and weights live: `GATEBENCH_HOME`."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of a user's data and weights; it need not exist yet.

    `GATEBENCH_HOME` if set, else `gatebench` under `XDG_DATA_HOME` (which counts only if absolute, as its standard
    says), else `~/.local/share/gatebench`.
    """
    chosen = os.environ.get("GATEBENCH_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    shared = os.environ.get("XDG_DATA_HOME", "")
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".local" / "share"
    return base / "gatebench"


def data_home() -> Path:
    """Where downloaded data sets are kept."""
    return home() / "data"


def weights_home() -> Path:
    """Where trained and imported weights are kept, with their manifest."""
    return home() / "weights"
