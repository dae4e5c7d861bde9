"""The rows of a reference run."""

from __future__ import annotations

from typing import Any

import torch

from bench.analysis.same_target import check_learned
from bench.contracts.cell import Cell
from bench.evaluation.prepare import open_cell
from bench.evaluation.shard import begun_at, run_batch
from bench.results.reading import FinishedCell

Rows = list[dict[str, Any]]


def reference_rows(
    cell: Cell, finished: FinishedCell, count: int, device: str, root: str | None
) -> Rows:
    """Attack the first images of a cell; an attack that goes on from saved images begins there.

    Args:
        cell: with the terms of the reference run.
        finished: the cell of the run, in which, or beside it, saved images are looked for.
        count: of images.
        device: where to evaluate.
        root: where data sets lie.

    Raises:
        GatebenchError: as in `bench.evaluation.prepare.open_cell` and
            `bench.evaluation.shard.run_batch`.
        RunFolderError: there are no saved images to begin at, or the defense learns otherwise than
            in the run.
    """
    opened = open_cell(cell, torch.device(device), root, fit_subset=finished.fit_subset)
    check_learned(finished, opened.learnt, device)
    saved = begun_at(opened, finished.folder)
    rows: Rows = []
    while len(rows) < count:
        rows += run_batch(opened, len(rows), lambda share: None, saved=saved)
    return rows[:count]
