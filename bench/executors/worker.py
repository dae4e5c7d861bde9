"""The process that computes: opens cells, runs shards, turns every failure into a status."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import bench
from bench.contracts.executor import Event, Task, Tell
from bench.errors import ContractBroken, DiskError, GatebenchError, in_words
from bench.executors.memory import keep_freed_memory

if TYPE_CHECKING:
    from bench.evaluation.prepare import Opened

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # read by torch on import; deterministic matrix products on a GPU


_BENCH = Path(bench.__file__).parent


def serve(connection: Connection, device: str, threads: int, log: str) -> None:
    """Main function of a worker process: say hello, then compute tasks until told to stop.

    Args:
        connection: to the executor. It hears ("hello", facts) or ("refused", error) first, then
            ("event", event); it sends tasks, and None for the end.
        device: what the plan asks for.
        threads: that torch computes with.
        log: file for what plugins print.
    """
    redirect(log)
    try:
        import bench.evaluation.shard  # noqa: F401 -- before hello: a deadline is about the shard
        from bench.evaluation.process_state import ProcessState
        from bench.store.provenance import deterministic, environment, resolve_devices

        keep_freed_memory()
        devices = resolve_devices(device)
        deterministic(threads)
        state = ProcessState(threads)
        facts = {
            "devices": [str(found) for found in devices],
            "environment": environment(devices[0]),
        }
        connection.send(("hello", facts))
    except GatebenchError as error:
        connection.send(("refused", error))
        return
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        if task is None:
            return
        state.restore()  # whatever the plugins of the task before have set
        event = perform(task, str(devices[0]), lambda event: connection.send(("event", event)))
        connection.send(("event", event))


def perform(task: Task, device: str, tell: Tell) -> Event:
    """Compute one shard.

    Returns:
        The last event of the task: "done", "problem" or "fatal".
    """
    started = time.monotonic()
    last_told = 0.0

    def progress(done: int, total: int, share: float) -> None:
        nonlocal last_told
        now = time.monotonic()
        if now - last_told > 0.2:
            last_told = now
            batch = task.cell.protocol.batch
            tell(
                Event(
                    "progress",
                    task,
                    share=min((done + share * min(batch, total - done)) / max(total, 1), 1.0),
                )
            )

    from bench.evaluation.prepare import Unsupported

    try:
        sums = _compute(task, device, progress)
    except Unsupported as error:
        if not _through_plugin(error):
            return Event("problem", task, "skipped", _printable(str(error)))
        reason = f"{_culprit(error, task)} raised {_words(error)}"
        return Event("problem", task, "failed", reason, _trace())
    except ContractBroken as error:
        return Event("problem", task, "invalid", _told(error), _trace())
    except DiskError as error:
        if not _through_plugin(error):
            return Event("fatal", task, "failed", error.message, error=error)
        reason = f"{_culprit(error, task)} raised {_words(error)}"
        return Event("problem", task, "failed", reason, _trace())
    except GatebenchError as error:
        return Event("problem", task, "failed", _told(error), _trace())
    except MemoryError:
        return Event("problem", task, "oom", _memory_advice(task), _trace())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a plugin may raise anything, SystemExit too
        if _out_of_memory(error):
            _forget()
            return Event("problem", task, "oom", _memory_advice(task), _trace())
        return Event(
            "problem", task, "failed", f"{_culprit(error, task)} raised {_words(error)}", _trace()
        )
    return Event("done", task, share=1.0, sums=sums, seconds=time.monotonic() - started)


def _compute(
    task: Task, device: str, progress: Callable[[int, int, float], None]
) -> tuple[int, int, int]:
    from bench.evaluation.shard import run_shard
    from bench.store.folder import CellFolder

    opened = _Last.opened(task, device)
    folder = CellFolder(task.folder)
    clean, adversarial = run_shard(
        opened, folder, task.first, task.last, progress, task.reads, task.pictures
    )
    return clean, adversarial, opened.description.reference * task.images


def forget() -> None:
    """Make everything anew from here on: in a process that goes on, plugins may be loaded again."""
    from bench.evaluation import prepare

    _Last.forget()
    prepare.forget()


class _Last:
    """The cell that was opened last, for all of its shards in a row."""

    _kept: tuple[tuple[str, str, str | None], Opened] | None = None

    @classmethod
    def opened(cls, task: Task, device: str) -> Opened:
        """The cell of a task, made ready."""
        import torch

        from bench.evaluation.prepare import open_cell

        key = (task.key, device, task.data_root)
        if cls._kept is None or cls._kept[0] != key:
            cls.forget()
            opened = open_cell(
                task.cell, torch.device(device), task.data_root, fit_subset=task.fit_subset
            )
            cls._kept = key, opened
        return cls._kept[1]

    @classmethod
    def forget(cls) -> None:
        """Let go of it."""
        cls._kept = None


def _forget() -> None:
    """Let go of the cell and of cached device memory after running out of it."""
    import torch

    _Last.forget()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _out_of_memory(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in in_words(error)
    )


def _memory_advice(task: Task) -> str:
    batch = task.cell.protocol.batch
    smaller = max(batch // 2, 1)
    return (
        f"out of memory at batch {batch}; set protocol.batch = {smaller} "
        "(rows of another batch size are another board)"
    )


def _culprit(error: BaseException, task: Task) -> str:
    """Whose code raised, by the innermost frame that belongs to a plugin."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    cell = task.cell
    for kind, part in (("attack", cell.attack), ("defense", cell.defense), ("target", cell.target)):
        module = part.value.partition(":")[0].replace(".", os.sep) if part else ""
        if part and any(module in file for file in files):
            return f"{kind} {part.label!r}"
    return f"cell {task.label!r}"


def _through_plugin(error: BaseException) -> bool:
    """Whether code outside gatebench was running when it was raised; what enters a `with` block of
    ours is not."""
    files = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    return any(not Path(file).is_relative_to(_BENCH) for file in files - {contextlib.__file__})


def _words(error: BaseException) -> str:
    """An exception in words that any file and terminal takes."""
    return _printable(in_words(error))


def _told(error: GatebenchError) -> str:
    """What is wrong, and what to change; a plugin may have raised it with anything in it."""
    try:
        return _printable(f"{error.message}; {error.hint}" if error.hint else f"{error.message}")
    except (Exception, SystemExit):
        return _words(error)


MOST = 20_000
"""Characters that are kept of a reason and of a traceback."""


def _printable(text: str) -> str:
    """Text that any file and terminal takes: lone surrogates are written out, and of more than
    `MOST` characters the middle is left out."""
    if len(text) > MOST:
        left_out = f"[{len(text) - MOST:,} characters left out]"
        text = f"{text[: MOST // 2]} {left_out} {text[-MOST // 2 :]}"
    return text.encode("utf-8", "backslashreplace").decode()


def _trace() -> str:
    try:
        return _printable(traceback.format_exc(limit=-12))
    except Exception:  # what was raised may raise when it is looked at
        return "its traceback cannot be printed"


LARGEST_LOG = 2**28
KEPT_OF_LOG = 2**26
"""Bytes of a log that grew beyond `LARGEST_LOG` which are kept, from its beginning."""


def shorten(log: str) -> None:
    """Cut a log off where plugins print without end, so that they do not fill the disk.

    Everybody writes to its end (`redirect`), so what comes later follows what is kept.
    """
    with contextlib.suppress(OSError):
        if os.path.getsize(log) > LARGEST_LOG:
            os.truncate(log, KEPT_OF_LOG)


def redirect(log: str) -> None:
    """Send what a plugin prints to the run's log, not into the live display."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(
        1, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace"
    )
    sys.stderr = os.fdopen(
        2, "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace"
    )
