"""The numbers of all images of a cell as columns, for reports; pictures stay on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from bench.results.rows import TRACE_POINTS, ImageRow
from bench.results.stats import Array
from bench.store.schema import DECISIONS, unpack

NUMBERS = tuple(
    "label clean_prediction adversarial_prediction clean_macs adversarial_macs float_macs squared "
    "linf psnr ssim evaluations near_threshold overshoot".split()
)
COLUMNS = ("id", *NUMBERS, "clean_decisions", "adversarial_decisions", "trace")
"""Columns of a shard that a table is made of."""


@dataclass(frozen=True)
class RowTable:
    """The images of a cell, a column a number.

    Attributes:
        ids: of the n images.
        columns: (n,) each, by the names in `NUMBERS`.
        clean_decisions: (n, U) bool, whether each unit ran.
        adversarial_decisions: the same under attack.
        starts: (n + 1,) where the trace of each image begins in the two columns that follow.
        evaluations: of all points of all traces.
        macs: of the same points.
    """

    ids: tuple[str, ...]
    columns: Mapping[str, Array]
    clean_decisions: Array
    adversarial_decisions: Array
    starts: Array
    evaluations: Array
    macs: Array

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    @classmethod
    def of_shards(cls, table: pa.Table, units: int) -> RowTable:
        """From the columns of shards, `COLUMNS` among them."""
        trace = table["trace"].combine_chunks()
        points = trace.flatten()
        lengths = trace.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        return cls(
            ids=tuple(table["id"].to_pylist()),
            columns={name: table[name].to_numpy() for name in NUMBERS},
            clean_decisions=unpack(table["clean_decisions"].to_pylist(), units),
            adversarial_decisions=unpack(table["adversarial_decisions"].to_pylist(), units),
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            evaluations=points.field("evaluations").to_numpy(zero_copy_only=False),
            macs=points.field("macs").to_numpy(zero_copy_only=False),
        )

    @classmethod
    def of_rows(cls, rows: Sequence[ImageRow]) -> RowTable:
        """From rows that are in memory."""
        traces = [row.trace for row in rows]
        points = [point for trace in traces for point in trace]
        decisions = [
            np.array([getattr(row, name) for row in rows], dtype=bool).reshape(
                len(rows), len(rows[0].clean_decisions) if rows else 0
            )
            for name in DECISIONS
        ]
        return cls(
            ids=tuple(row.id for row in rows),
            columns={name: np.array([getattr(row, name) for row in rows]) for name in NUMBERS},
            clean_decisions=decisions[0],
            adversarial_decisions=decisions[1],
            starts=np.cumsum([0, *map(len, traces)]),
            evaluations=np.array([point[0] for point in points], dtype=np.int64),
            macs=np.array([point[1] for point in points], dtype=np.int64),
        )


def mean_trace(table: RowTable) -> list[tuple[int, float]]:
    """(forward-equivalents, mean MACs): the mean over images of a step function each.

    An image stands at its clean MACs until the first point of its trace.

    Args:
        table: the images.
    """
    traced = np.diff(table.starts) > 0
    if not traced.any():
        return []
    last = max(int(table["evaluations"][traced].max()), int(table.evaluations.max()))
    marks, places = np.unique(np.concatenate([table.evaluations, [0, last]]), return_inverse=True)
    before = np.concatenate([[0], table.macs[:-1]])
    before[table.starts[:-1][traced]] = table["clean_macs"][traced]
    rises = np.zeros(len(marks), dtype=np.int64)
    np.add.at(rises, places[: len(table.macs)], table.macs - before)
    means = (int(table["clean_macs"].sum()) + rises.cumsum()) / len(table)
    return [(int(mark), float(mean)) for mark, mean in zip(marks, means, strict=True)]


def for_drawing(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most as many points as a trace has, evenly spread, with the first and the last."""
    if len(points) <= TRACE_POINTS:
        return list(points)
    places = np.round(np.linspace(0, len(points) - 1, TRACE_POINTS)).astype(int)
    return [points[place] for place in places]
