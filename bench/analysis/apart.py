"""Work of one target, whose plugins reach no other number.

What plugins keep between calls, such as results by image, would answer for the next target too. So
plugins that are not gatebench's own are run in a process that ends with them.
"""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import torch

from bench.contracts.cell import Cell
from bench.errors import GatebenchError, PluginError, in_words
from bench.evaluation.prepare import Unsupported
from bench.executors.processes import start
from bench.plugins.registry import HANDED_OVER, HOME_DISTRIBUTION
from bench.store.provenance import deterministic

T = TypeVar("T")


def apart(cell: Cell, work: Callable[..., T], *arguments: Any, deadline: float | None = None) -> T:
    """What a function returns, computed in a process of its own where plugins may be anybody's.

    Args:
        cell: whose plugins the function runs.
        work: a function of a module; what it is given and returns can be pickled.
        arguments: that it is given.
        deadline: seconds that a process of its own may take; None for any.

    Raises:
        GatebenchError: it took longer; what `work` raises; whatever else it raises in a process of
            its own becomes a `PluginError`.
    """
    own = (HOME_DISTRIBUTION, HANDED_OVER)
    if all(part.distribution in own for part in cell.parts.values()):
        return work(*arguments)
    process, connection = start(_serve, cell.label, torch.get_num_threads(), work, arguments)
    try:
        if not connection.poll(deadline):
            raise PluginError(f"{cell.label!r} took longer than {deadline:g} s")
        found: Any = connection.recv()
    except EOFError as error:
        process.join(5)
        raise PluginError(
            f"the process that computed {cell.label!r} ended (exit code {process.exitcode})"
        ) from error
    finally:
        process.kill()
        process.join()
        connection.close()
    if isinstance(found, GatebenchError):
        raise found
    returned: T = found
    return returned


def _serve(
    connection: Connection,
    label: str,
    threads: int,
    work: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """Main function of the process: send what the function returns, or what is wrong."""
    deterministic(threads)
    try:
        connection.send(work(*arguments))
    except GatebenchError as error:
        ours = type(error).__module__ == GatebenchError.__module__  # a plugin may have its own
        connection.send(error if ours else PluginError(str(error)))
    except Unsupported as error:
        connection.send(PluginError(str(error)))
    except Exception as error:
        connection.send(PluginError(f"{label!r} raised {in_words(error)}"))
