"""The state of a process before any plugin ran in it, and how to get back to it."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from bench.evaluation.seeds import seed_global_streams
from bench.plugins.sources import working_folder
from bench.store.provenance import deterministic

if sys.platform != "win32":
    import resource

_AUTOCAST = {"cpu": torch.bfloat16, "cuda": torch.float16}
"""Device types and the type that autocast has on each unless told otherwise."""


class ProcessState:
    """What can be put back cheaply; what cannot needs another process.

    Restored are: the working folder, environment variables, the search path, warning filters, the
    recursion limit, what the process may use at most (where the system lets it), tracing functions,
    garbage collection, standard streams; of torch the default type and device, autocast, gradients,
    modes left open, hooks of all modules, threads and everything of `provenance.deterministic`; and
    all global random streams, to one fixed seed. Not restored are: classes and functions that were
    replaced, threads and child processes.

    Args:
        threads: that torch computes with.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._folder = working_folder()
        self._environment = dict(os.environ)
        self._path = list(sys.path)
        self._filters = list(warnings.filters)
        self._recursion = sys.getrecursionlimit()
        self._streams = sys.stdout, sys.stderr
        self._modes = _open_modes()
        self._hooks = {name: dict(hooks) for name, hooks in _module_hooks()}
        self._umask = os.umask(0o022)
        os.umask(self._umask)
        self._limits = _limits()

    def restore(self) -> None:
        """Put everything back."""
        sys.settrace(None)
        sys.setprofile(None)
        sys.setrecursionlimit(self._recursion)
        sys.stdout, sys.stderr = self._streams
        sys.path[:] = self._path
        gc.enable()
        os.umask(self._umask)
        _restore_limits(self._limits)
        if self._folder:
            os.chdir(self._folder)
        if dict(os.environ) != self._environment:
            os.environ.clear()
            os.environ.update(self._environment)
        warnings.resetwarnings()
        filters: Any = warnings.filters
        filters[:] = self._filters
        _restore_torch()
        _close_modes(self._modes)
        for name, hooks in _module_hooks():
            if dict(hooks) != self._hooks[name]:
                hooks.clear()
                hooks.update(self._hooks[name])
        deterministic(self._threads)
        seed_global_streams(0)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Around code of a plugin: afterwards the process is set as before."""
    state = ProcessState(torch.get_num_threads())
    try:
        yield
    finally:
        state.restore()


def _limits() -> dict[int, tuple[int, int]]:
    """What the process may use at most, (soft, hard) by kind, where the system has such limits."""
    if sys.platform == "win32":
        return {}
    kinds = {value for name, value in vars(resource).items() if name.startswith("RLIMIT_")}
    found = {}
    for kind in sorted(kinds):
        with contextlib.suppress(OSError, ValueError):  # not on every system
            found[kind] = resource.getrlimit(kind)
    return found


def _restore_limits(before: dict[int, tuple[int, int]]) -> None:
    if sys.platform == "win32":
        return
    for kind, limits in _limits().items():
        if limits != before[kind]:
            soft, hard = before[kind]
            with contextlib.suppress(OSError, ValueError):  # a hard one that was lowered stays so
                resource.setrlimit(kind, (soft, limits[1]))
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (soft, hard))


def _restore_torch() -> None:
    torch.set_default_device(None)
    torch.set_anomaly_enabled(False)
    torch.set_flush_denormal(False)
    filling: Any = torch.utils.deterministic
    filling.fill_uninitialized_memory = True
    torch.backends.mkldnn.set_flags(True)
    for device, dtype in _AUTOCAST.items():
        torch.set_autocast_enabled(device, False)
        torch.set_autocast_dtype(device, dtype)
    torch.set_autocast_cache_enabled(True)
    torch.clear_autocast_cache()


_C: Any = torch._C


def _open_modes() -> tuple[int, int, int]:
    """How many modes are open: of functions, of dispatch, and hooks of saved tensors."""
    hooks = _C._autograd._top_saved_tensors_default_hooks(True) is not None
    return _C._len_torch_function_stack(), _C._len_torch_dispatch_stack(), int(hooks)


def _close_modes(before: tuple[int, int, int]) -> None:
    """Leave those that were opened since."""
    functions, dispatch, hooks = before
    while _C._len_torch_function_stack() > functions:
        _C._pop_torch_function_stack()
    while _C._len_torch_dispatch_stack() > dispatch:
        _C._pop_torch_dispatch_stack(None)
    while not hooks and _C._autograd._top_saved_tensors_default_hooks(True) is not None:
        _C._autograd._pop_saved_tensors_default_hooks()


def _module_hooks() -> list[tuple[str, dict[int, Any]]]:
    """The hooks of all modules of the process, by the name of their table."""
    tables = vars(torch.nn.modules.module).items()
    return [
        (name, table)
        for name, table in tables
        if name.startswith("_global_") and isinstance(table, dict)
    ]
