"""How long work took on this machine, kept so that `gatebench plan` can estimate."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DiskError
from bench.files.atomic import write_atomic
from bench.files.canonical import canonical
from bench.files.home import home
from bench.files.regular import read_regular
from bench.store.documents import parse


def speed_file() -> Path:
    """Where measured speeds are kept."""
    return home() / "speeds.json"


_LARGEST = 2**24
"""Bytes of that file that are read."""


@dataclass(frozen=True)
class Speed:
    """How long a target took on this machine.

    Attributes:
        seconds: per image and forward-equivalent of budget.
        work: images times budget that it was measured on.
    """

    seconds: float
    work: int

    @property
    def is_rough(self) -> bool:
        """Whether loading and auditing were most of the time that was measured."""
        return self.work < LEAST_WORK


SLOWEST = 1e6
"""Seconds per image and forward-equivalent from which a measurement cannot be meant."""
LEAST_WORK = 10_000
"""Images times budget from which a measurement is more than rough."""


def speeds() -> dict[str, Speed]:
    """What was measured, by target label; {} before the first run."""
    try:
        found = parse(read_regular(speed_file(), _LARGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    known = {}
    for name, value in found.items() if isinstance(found, dict) else ():
        match value:
            case float() if 0 < value < SLOWEST:  # as it was kept before small runs counted too
                known[name] = Speed(value, LEAST_WORK)
            case [float() as seconds, int() as work] if 0 < seconds < SLOWEST and work > 0:
                known[name] = Speed(seconds, work)
    return known


def remember(measured: Mapping[str, Sequence[tuple[float, int]]]) -> None:
    """Keep what was measured for each target; a full disk is no error here.

    A rough measurement replaces no better one.

    Args:
        measured: target label -> (seconds, images times budget) of its shards.
    """
    known = speeds()
    found = dict(known)
    for label, pairs in measured.items():
        seconds, work = sum(time for time, _ in pairs), sum(work for _, work in pairs)
        if work and seconds > 0:
            new = Speed(seconds / work, work)
            if label not in known or known[label].is_rough or not new.is_rough:
                found[label] = new
    if found == known:
        return
    with contextlib.suppress(OSError, DiskError):
        speed_file().parent.mkdir(parents=True, exist_ok=True)
        document = {label: [speed.seconds, speed.work] for label, speed in found.items()}
        write_atomic(speed_file(), canonical(document))
