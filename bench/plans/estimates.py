"""How long work took on this machine, kept so that `gatebench plan` can estimate."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.errors import DiskError
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical
from bench.files.home import home
from bench.files.regular import read_regular


def speed_file() -> Path:
    """Where measured speeds are kept."""
    return home() / "speeds.json"


_LARGEST = 2**24
"""Bytes of that file that are read."""


def speeds() -> dict[str, float]:
    """Measured seconds per image and forward-equivalent of budget, by target label.

    {} before the first run.
    """
    try:
        found = json.loads(read_regular(speed_file(), _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return (
        {
            name: value
            for name, value in found.items()
            if isinstance(value, float) and 0 < value < math.inf
        }
        if isinstance(found, dict)
        else {}
    )


LEAST_WORK = 10_000
"""Images times budget from which a measurement is kept.

In smaller trials, loading and auditing is most of the time.
"""


def remember(measured: Mapping[str, Sequence[tuple[float, int]]]) -> None:
    """Keep what was measured for each target; a full disk is no error here.

    Args:
        measured: target label -> (seconds, images times budget) of its shards.
    """
    sums = {
        label: (sum(time for time, _ in pairs), sum(work for _, work in pairs))
        for label, pairs in measured.items()
    }
    found = {label: time / work for label, (time, work) in sums.items() if work >= LEAST_WORK}
    if not found:
        return
    known = speeds() | found
    with contextlib.suppress(OSError, DiskError):
        speed_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(speed_file(), canonical(known))
