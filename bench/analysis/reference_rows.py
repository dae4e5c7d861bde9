"""The rows of a reference run, whose plugins reach no other number.

What plugins keep between calls, such as results by image, would answer in the reference run of the
next target too. So plugins that are not gatebench's own are run in a process that ends with them.
"""

from __future__ import annotations

from multiprocessing.connection import Connection
from typing import Any

import torch

from bench.contracts.cell import Cell
from bench.errors import GatebenchError, PluginError, in_words
from bench.evaluation.prepare import Unsupported, open_cell
from bench.evaluation.shard import run_batch
from bench.executors.processes import start
from bench.plugins.registry import HANDED_OVER, HOME_DISTRIBUTION
from bench.store.provenance import deterministic

Rows = list[dict[str, Any]]


def reference_rows(cell: Cell, count: int, device: str, root: str | None) -> Rows:
    """Attack the first images of a cell.

    Args:
        cell: with the terms of the reference run.
        count: of images.
        device: where to evaluate.
        root: where data sets lie.

    Raises:
        GatebenchError: as in `bench.evaluation.prepare.open_cell` and
            `bench.evaluation.shard.run_batch`; of plugins that are not gatebench's own, whatever
            they raise becomes one.
    """
    parts = [part for part in (cell.target, cell.defense, cell.attack) if part]
    if all(part.distribution in (HOME_DISTRIBUTION, HANDED_OVER) for part in parts):
        return _attacked(cell, count, device, root)
    process, connection = start(_serve, cell, count, device, root, torch.get_num_threads())
    try:
        found: Rows | GatebenchError = connection.recv()
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
    return found


def _attacked(cell: Cell, count: int, device: str, root: str | None) -> Rows:
    opened = open_cell(cell, torch.device(device), root)
    rows: Rows = []
    while len(rows) < count:
        rows += run_batch(opened, len(rows), lambda share: None)
    return rows[:count]


def _serve(
    connection: Connection,
    cell: Cell,
    count: int,
    device: str,
    root: str | None,
    threads: int,
) -> None:
    """Main function of the process: send the rows, or what is wrong."""
    deterministic(threads)
    try:
        connection.send(_attacked(cell, count, device, root))
    except (GatebenchError, Unsupported) as error:
        connection.send(PluginError(str(error)))
    except Exception as error:
        connection.send(PluginError(f"{cell.label!r} raised {in_words(error)}"))
