"""Names of files and folders that every system can have."""

from __future__ import annotations

_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))]
)
"""What Windows takes for a device, whatever follows a dot behind it."""


def is_portable(name: str) -> bool:
    """Whether a name of printed letters is the name of one file on every system.

    Windows drops dots and spaces at the end, and takes some names for devices.

    Args:
        name: of one file or folder, without those above it.
    """
    return name.rstrip(". ") == name != "" and name.partition(".")[0].lower() not in _DEVICES
