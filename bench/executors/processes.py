"""Processes that start in one known state: forked from a server that ran nothing."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from bench.errors import GatebenchError, PlanError
from bench.plugins.sources import working_folder

_PRELOADED = "bench.executors.preload"

UNGUARDED = 86
"""Exit code of a worker that would have started the program again."""

STARTS = 3
"""How often a process is started before its failure counts: what was killed is started again."""
PAUSES = (0.1, 0.4, 1.5, 6.0)
"""Seconds between the tries to reach the server. One that was killed refuses connections before it
is gone, on a busy machine for a while, and only then another one is started."""


def start(target: Callable[..., None], *arguments: Any) -> tuple[Any, Connection]:
    """Start `target(connection, *arguments)` in a clean process.

    Where the system can, it is forked from a server that has imported torch and gatebench, and no
    plugin: that takes a tenth of a second instead of seconds. Elsewhere it is spawned. Either way
    it gets the environment variables, the folder and the search path that this process has now.

    Returns:
        The process and this end of a two-way connection to it.

    Raises:
        GatebenchError: the server ended each time it was asked, once more often than there are
            `PAUSES`.
    """
    forks = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([_PRELOADED])
    for pause in (*PAUSES, None):
        here, there = context.Pipe()
        process = context.Process(
            target=_begin,
            args=(target, there, dict(os.environ), search_path(), arguments),
            daemon=True,
        )
        try:
            with _block_interrupts(), _program_that_is_there():
                process.start()
        except (EOFError, ConnectionError):  # the server was killed; the next start starts another
            here.close()
            if pause is not None:
                time.sleep(pause)
            continue
        finally:
            there.close()
        return process, here
    raise GatebenchError("the process that workers are forked from ended again and again")


def check_guarded() -> None:
    """End this process where it is a worker that runs the program's main module again.

    A worker imports the main module of the program that started it. Where that starts a run
    without a main guard, every worker would start another one.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        os._exit(UNGUARDED)


def check_started(code: int | None) -> None:
    """Say what a worker that ended with `UNGUARDED` means.

    Args:
        code: its exit code.

    Raises:
        PlanError: the program has no main guard.
    """
    if code == UNGUARDED:
        raise PlanError(
            "this script starts worker processes, and each of them runs the script again",
            hint="put what the script does under 'if __name__ == \"__main__\":', or compute "
            "without workers: in_process=True",
        )


def search_path() -> list[str]:
    """Where Python looks for modules, with the working folder of now where it says "here"."""
    here = working_folder()
    return [found for entry in sys.path if (found := entry or here)]


def _begin(
    target: Callable[..., None],
    connection: Connection,
    environment: Mapping[str, str],
    path: list[str],
    arguments: tuple[Any, ...],
) -> None:
    """First function of every such process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)  # the server may be older than they are
    sys.path[:] = path  # multiprocessing takes the folder that the program began in for this one
    _end_with_parent()
    target(connection, *arguments)


def _end_with_parent() -> None:
    """End this process when its parent is gone, even in the middle of a long computation."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel: Any = parent.sentinel

    def watch() -> None:
        wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _block_interrupts() -> Iterator[None]:
    """Processes started meanwhile never see a Ctrl-C; ours is delivered afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _program_that_is_there() -> Iterator[None]:
    """Processes started meanwhile import the main module only where it lies in a file.

    One that Python reads from its standard input is called "<stdin>", and a file may be gone since
    it was started; a worker that looked for either would end before it began. A program given by
    `python -c` or in a notebook has no file to begin with, and is not imported either.
    """
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    began_in = getattr(multiprocessing.process, "ORIGINAL_DIR", None) or ""
    given_by_name = getattr(main, "__spec__", None) is not None  # python -m, a package or a zip
    if main is None or file is None or given_by_name or os.path.exists(Path(began_in, file)):
        yield
        return
    del main.__file__
    try:
        yield
    finally:
        main.__file__ = file
