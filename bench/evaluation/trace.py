"""The best image seen on the way, evaluation by evaluation, recorded where the images are."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.results.traces import Point, thinned
from bench.store.schema import TRACE_POINTS

FLUSHED = 1 << 16
"""Entries that may wait on the device."""


class Trace:
    """For each image of a batch, when a better one was found: more MACs, or as many from nearer by.

    Nothing is read back from the device until `points` is asked for, or many entries wait.

    Args:
        clean: (N, C, H, W) the clean images.
    """

    def __init__(self, clean: Tensor) -> None:
        self.clean = clean
        count, device = len(clean), clean.device
        self._macs = torch.full((count,), -1, dtype=torch.int64, device=device)
        self._distance = torch.full((count,), torch.inf, dtype=torch.float64, device=device)
        self._waiting: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []
        self._entries = 0
        self._points: list[list[Point]] = [[] for _ in range(count)]

    def add(self, rows: Tensor, images: Tensor, macs: Tensor, used: Tensor) -> None:
        """Remember the images that are better than all before.

        Args:
            rows: (M,) int64, which image each belongs to; each at most once.
            images: (M, C, H, W).
            macs: (M,) int64.
            used: (M,) int64, what each image had spent by then.
        """
        with torch.no_grad():
            moved = (255 * (images - self.clean[rows])).flatten(1)
            distance = moved.square().sum(1).to(torch.float64)
        most, nearest = self._macs[rows], self._distance[rows]
        better = (macs > most) | ((macs == most) & (distance < nearest))
        self._macs[rows] = torch.where(better, macs, most)
        self._distance[rows] = torch.where(better, distance, nearest)
        self._waiting.append((rows.clone(), better, used, macs, distance))
        self._entries += len(rows)
        if self._entries > FLUSHED:
            self._flush()

    def points(self, row: int) -> list[Point]:
        """Of one image, at most `TRACE_POINTS` points."""
        self._flush()
        return thinned(self._points[row], TRACE_POINTS)

    def _flush(self) -> None:
        """Fetch what waits, all columns at once."""
        if not self._waiting:
            return
        columns = [torch.cat(column) for column in zip(*self._waiting, strict=True)]
        self._waiting, self._entries = [], 0
        whole = torch.stack([column.to(torch.float64) for column in columns]).cpu()
        rows, _, used, macs, distance = whole[:, whole[1] > 0]
        for row, spent, cost, near in zip(
            rows.tolist(), used.tolist(), macs.tolist(), distance.tolist(), strict=True
        ):
            points = self._points[int(row)]
            points.append((int(spent), int(cost), near))
            if len(points) > 8 * TRACE_POINTS:
                self._points[int(row)] = thinned(points, 4 * TRACE_POINTS)
