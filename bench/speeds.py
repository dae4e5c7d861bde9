"""How long work took on this machine, kept from run to run so that `gatebench plan` can estimate."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.atomic import write_atomic
from bench.errors import DiskError
from bench.home import home
from bench.keys import canonical


def speed_file() -> Path:
    """Where measured speeds are kept."""
    return home() / "speeds.json"


def speeds() -> dict[str, float]:
    """Measured seconds per image and forward-equivalent of budget, by target label; {} before the first run."""
    try:
        found = json.loads(speed_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, float)} if isinstance(found, dict) else {}


def remember(measured: Mapping[str, Sequence[float]]) -> None:
    """Keep the mean of what was measured for each target; losing it loses nothing, so a full disk is no error here."""
    if not measured:
        return
    known = speeds() | {label: sum(values) / len(values) for label, values in measured.items()}
    with contextlib.suppress(OSError, DiskError):
        speed_file().parent.mkdir(parents=True, exist_ok=True)
        write_atomic(speed_file(), canonical(known))
