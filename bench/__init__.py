"""The harness of gatebench: contracts, plans, judging, storage and commands.

From a program or a notebook:

    import bench

    result = bench.evaluate("skipnet-20-budget@digits-m", "gradauto", "digits-m:test", count=32)
    result.recovery.value

`evaluate`, `run`, `open_run`, `open_board`, `load_target` and `open_dataset` are imported when they
are used: `import bench` alone imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.datasets.base import open_dataset as open_dataset
    from bench.python.evaluate import evaluate as evaluate
    from bench.python.result import Result as Result
    from bench.python.run import open_board as open_board
    from bench.python.run import open_run as open_run
    from bench.python.run import run as run
    from bench.python.target import load_target as load_target

__version__ = "0.1.0"

_LAZY = {
    "Result": "bench.python.result",
    "evaluate": "bench.python.evaluate",
    "load_target": "bench.python.target",
    "open_board": "bench.python.run",
    "open_dataset": "bench.datasets.base",
    "open_run": "bench.python.run",
    "run": "bench.python.run",
}
"""What this package offers to programs, and where it is (PEP 562)."""

__all__ = [
    "Result",
    "evaluate",
    "load_target",
    "open_board",
    "open_dataset",
    "open_run",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
