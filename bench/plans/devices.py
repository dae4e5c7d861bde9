"""The kind of device that a plan runs on, and what follows from it before anything runs."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from bench.contracts.cell import Precision

SMALL = 32
"""Images of a batch unless a plan names another number, on anything but a GPU."""
LARGE = 256
"""At most so many on a GPU, which waits for its host as often for a small batch."""

_DRIVERS = ("/proc/driver/nvidia/version", "/dev/kfd", "/dev/dxg")


def kind_of(device: str) -> str:
    """ "cpu", "cuda" or "mps": what `run.device` comes to on this machine.

    "auto" asks torch only where a driver says that there may be a GPU.
    """
    if device != "auto":
        return device.partition(":")[0]
    if not has_driver():
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_driver() -> bool:
    """Whether a driver of GPUs is installed; torch may still not be built for them."""
    if sys.platform == "win32":
        return shutil.which("nvidia-smi") is not None
    return any(Path(path).exists() for path in _DRIVERS)


def default_batch(device: str, images: int) -> int:
    """How many images are evaluated together where a plan names no number.

    Args:
        device: as `run.device`.
        images: of the plan; a batch that they do not fill would be padded.
    """
    if kind_of(device) != "cuda":
        return SMALL
    return max(min(LARGE, -(-images // SMALL) * SMALL), SMALL)


def precision_problem(precision: Precision, device: str) -> str:
    """Why gradient passes cannot be computed in `precision` on a device; "" where they can, as far
    as its kind says."""
    kind = kind_of(device) if precision != "float32" else ""
    if precision == "tf32" and kind != "cuda":
        return f'"tf32" takes an NVIDIA GPU, and the plan runs on {kind}'
    if precision == "bf16" and kind == "mps":
        return '"bf16" is not offered on mps'
    return ""
