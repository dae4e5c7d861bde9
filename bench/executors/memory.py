"""Keeping freed memory in the process.

glibc hands large blocks back to the system when they are freed, and the next forward pass faults
them in again, page by page: about a tenth of an attack step on a small network.
"""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST_THRESHOLD = 32 * 2**20  # the most that glibc accepts for the second
KEPT = 2**30


def keep_freed_memory() -> bool:
    """Let malloc keep up to 1 GiB of freed memory for reuse; no number depends on it.

    Returns:
        Whether it took effect; False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_THRESHOLD)) and bool(
        mallopt(M_TRIM_THRESHOLD, KEPT)
    )
