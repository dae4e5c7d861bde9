"""Where a user's own data and weights live: `GATEBENCH_HOME`."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of a user's data and weights; it need not exist yet.

    `GATEBENCH_HOME` if set, else `gatebench` under `XDG_DATA_HOME` (which counts only if absolute,
    as its standard says), else `~/.local/share/gatebench`; for a user without a home folder,
    `.gatebench` in the working folder.
    """
    chosen = os.environ.get("GATEBENCH_HOME")
    if chosen:
        return Path(os.path.abspath(os.path.expanduser(chosen)))
    shared = os.environ.get("XDG_DATA_HOME", "")
    if os.path.isabs(shared):
        return Path(shared) / "gatebench"
    own = os.path.expanduser("~")
    if not os.path.isabs(own):  # neither HOME nor an entry for this user
        return Path(os.path.abspath(".gatebench"))
    return Path(own) / ".local" / "share" / "gatebench"


def data_home() -> Path:
    """Where downloaded data sets are kept."""
    return home() / "data"


def weights_home() -> Path:
    """Where trained and imported weights are kept, with their manifest."""
    return home() / "weights"
