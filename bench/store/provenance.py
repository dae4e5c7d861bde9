"""What made a shard: versions, device class, threads and the digests of the plugins' sources."""

from __future__ import annotations

import functools
import hashlib
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from bench import __version__
from bench.contracts.cell import Cell
from bench.errors import PlanError, did_you_mean
from bench.plugins.registry import look_here
from bench.plugins.sources import source_file
from bench.store.precision import compute_in_float32
from bench.store.sealed import Environment

if TYPE_CHECKING:
    import torch


VERSIONED = ("torch", "torchvision", "timm", "ptflops", "numpy", "pillow")


def deterministic(threads: int) -> None:
    """Make this process compute reproducibly.

    Fixed threads, TF32, bfloat16 and autotuning off, deterministic algorithms on, float32.
    """
    import torch

    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.set_num_threads(threads)
    compute_in_float32()
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    # the same switch as torch.use_deterministic_algorithms, without importing the compiler for it
    torch.set_deterministic_debug_mode("warn")


_KINDS = ("auto", "cpu", "cuda", "mps")


def resolve_devices(name: str) -> list[torch.device]:
    """The devices a plan asks for, one worker each.

    "auto" and "cuda" are all GPUs there are; "auto" without a GPU is the CPU.

    Raises:
        PlanError: it is not there, or no kind that gatebench computes on.
    """
    import torch

    if name.partition(":")[0] not in _KINDS:
        raise PlanError(
            f"device {name!r} is not known{did_you_mean(name, _KINDS)}",
            hint='"auto" takes what there is',
        )

    gpus = (
        [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
        if torch.cuda.is_available()
        else []
    )
    if name == "auto":
        return gpus or [torch.device("cpu")]
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PlanError(f"device {name!r}: {str(error).splitlines()[0]}") from error
    if device.type == "cuda" and (not gpus or (device.index or 0) >= len(gpus)):
        raise PlanError(
            f"device {name!r} is not there; torch sees {len(gpus)} CUDA devices",
            hint='"auto" takes what there is',
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PlanError("device 'mps' is not there", hint='"auto" takes what there is')
    if name == "cuda":
        return gpus
    return [device]


def environment(device: torch.device) -> Environment:
    """What every shard of this process has in common: versions, device class, threads."""
    import torch

    kind = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{device.type} {platform.machine()}"
    )
    return {
        "gatebench": __version__,
        "versions": dict(versions()),
        "device": kind,
        "threads": torch.get_num_threads(),
    }


def sources(cell: Cell) -> dict[str, str]:
    """Digests of the source of the plugins that a cell uses, by kind."""
    return {kind: source_digest(part.value) for kind, part in cell.parts.items()}


def record(cell: Cell, device: torch.device) -> Environment:
    """What a shard's bytes may depend on beside its cell's key; no time, host or path."""
    return {**environment(device), "sources": sources(cell)}


@functools.cache
def versions() -> dict[str, str]:
    """Versions of the libraries that numbers depend on; looked up once, as they are imported
    once."""
    found = {}
    for name in VERSIONED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


@functools.cache
def source_digest(value: str) -> str:
    """sha256 (16 hex digits) over the Python files of the package that provides `value`.

    Where it is one module, over that.
    """
    module = value.partition(":")[0]
    path = source_file(module)
    if path is None:
        look_here()
        path = source_file(module)
    if path is None:  # handed in, or no file of Python
        return "unknown"
    top = source_file(module.partition(".")[0])
    files = sorted(top.parent.rglob("*.py")) if top and top.name == "__init__.py" else [path]
    total = hashlib.sha256()
    for file in files:
        total.update(
            _relative(file, path).encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest()
        )
    return total.hexdigest()[:16]


def _relative(file: Path, path: Path) -> str:
    try:
        return file.relative_to(path.parent).as_posix()
    except ValueError:
        return file.name
