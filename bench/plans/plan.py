"""What a plan comes to: its cells, grouped into boards, and how to run them."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.contracts.cell import SCHEMA, Cell, Protocol
from bench.files.canonical import digest

COST_MODEL = "ptflops-aten-1"
"""Names the way of counting; part of every cell's key. Bumped with `bench.evaluation.cost`."""


@dataclass(frozen=True)
class RunOptions:
    """How to run, which never changes a number.

    Attributes:
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        shard: images a shard.
        deadline: seconds a shard may take.
        workers: how many, or "auto".
        threads: of each worker.
        executor: name of what runs them.
    """

    device: str = "auto"
    shard: int = 1
    deadline: float = 600
    workers: int | Literal["auto"] = "auto"
    threads: int = 1
    executor: str = "local"


@dataclass(frozen=True)
class Plan:
    """A resolved plan.

    Attributes:
        source: where it was read from.
        boards: its cells, those of one protocol together, in the order of the file.
        options: how to run it.
        pages: what else the report shows: "paper", the published table to stand beside;
            "audits"; "headroom", the images of its reference runs.
        batch_for: the kind of device that the batch was taken for, "" where the plan names one.
    """

    source: str
    boards: tuple[tuple[Cell, ...], ...]
    options: RunOptions
    pages: Mapping[str, Any] = field(default_factory=dict)
    batch_for: str = ""

    @property
    def batch(self) -> int:
        """Of all its boards."""
        return self.boards[0][0].protocol.batch

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells of all boards."""
        return tuple(itertools.chain.from_iterable(self.boards))

    def document(self) -> dict[str, Any]:
        """What the plan comes to, whatever the file looked like; run options are no part of it."""
        return plan_document(self.pages, ((cells[0].protocol, cells) for cells in self.boards))

    @property
    def digest(self) -> str:
        """sha256 (hex) of `document`."""
        return digest(self.document())

    def default_name(self, dataset: str) -> str:
        """What a run of this plan on `dataset` is called.

        Data set, protocol and six digits of the plan's hash.
        """
        return f"{self.boards[0][0].protocol.title(dataset)}-{self.digest[:6]}"


def plan_document(
    pages: Mapping[str, Any], boards: Iterable[tuple[Protocol, Sequence[Cell]]]
) -> dict[str, Any]:
    """The content of a plan, which its digest is over."""
    return {
        "schema": SCHEMA,
        "pages": dict(pages),
        "boards": [
            {"protocol": protocol.document(), "cells": [cell.document() for cell in cells]}
            for protocol, cells in boards
        ],
    }
