"""The rows of a cell as people and reports see them: one an image, one a unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from bench.results.stats import Array
from bench.store.folder import CellFolder


@dataclass(frozen=True)
class UnitRow:
    """One unit of a target, for people and gate maps (see `bench.api.Units`)."""

    name: str
    kind: str
    owner: str
    shape: tuple[int, ...]
    cost: int
    threshold: float


@dataclass(frozen=True)
class ImageRow:
    """One image of a cell.

    Attributes:
        id, label: stable id and true class.
        clean_prediction, adversarial_prediction: classes.
        clean_macs, adversarial_macs, float_macs: executed MACs of the clean image, of the saved adversarial image, and of the
            float image before it was saved.
        jpeg_macs: of the saved adversarial image after a JPEG round trip of quality 90; None in runs older than this column.
        held, flipped: units that stood open at an evaluation of the attack, and those of them closed at the next one.
        clean_decisions, adversarial_decisions: (U,) whether each unit ran.
        linf: largest |D| in grey levels; squared: integer sum of D^2; l2: in [0,1] pixel units; psnr in dB; ssim.
        evaluations, forwards, backwards: forward-equivalents and plain counts that the attack used.
        near_threshold: units whose margin lay within the target's own float noise.
        overshoot: the attack left its threat and was pulled back.
        trace: (forward-equivalents, macs, sum of D^2) of the best image so far, at most 32 points.
        image, adversarial: PNG bytes.
    """

    id: str
    label: int
    clean_prediction: int
    adversarial_prediction: int
    clean_macs: int
    adversarial_macs: int
    float_macs: int
    clean_decisions: tuple[bool, ...]
    adversarial_decisions: tuple[bool, ...]
    linf: int
    squared: int
    l2: float
    psnr: float
    ssim: float
    evaluations: int
    forwards: int
    backwards: int
    near_threshold: int
    overshoot: bool
    trace: tuple[tuple[int, int, float], ...]
    image: bytes
    adversarial: bytes
    jpeg_macs: int | None = None
    held: int | None = None
    flipped: int | None = None


def read_units(document: Mapping[str, Any]) -> tuple[UnitRow, ...]:
    """The units as a cell's target.json describes them."""
    names = ("name", "kind", "owner", "shape", "cost", "threshold")
    columns = zip(*(document[name] for name in names), strict=True)
    return tuple(
        UnitRow(name, kind, owner, tuple(shape), cost, threshold)
        for name, kind, owner, shape, cost, threshold in columns
    )


TRACE_POINTS = 32
"""Points of a trace at most, in a row and in the mean over rows."""


def packed(decisions: Array) -> list[bytes]:
    """The decisions of each image as bits, first unit in the highest bit.

    Args:
        decisions: (N, U) bool.
    """
    return [row.tobytes() for row in np.packbits(np.asarray(decisions, dtype=bool), axis=-1)]


def unpacked(packed: Sequence[bytes] | pa.ChunkedArray, units: int) -> Array:
    """(N, U) bool from packed bits, first unit in the highest bit."""
    if not len(packed):
        return np.zeros((0, units), dtype=bool)
    rows = packed.to_pylist() if isinstance(packed, pa.ChunkedArray) else packed
    bits = np.frombuffer(b"".join(rows), dtype=np.uint8).reshape(len(rows), -1)
    return np.unpackbits(bits, axis=1, count=units).view(bool)


@dataclass(frozen=True)
class Rows:
    """Loads the images of a cell when called."""

    store: CellFolder
    units: int

    def __call__(self) -> Sequence[ImageRow]:
        rows = self.store.table().to_pylist()
        clean = unpacked([row["clean_decisions"] for row in rows], self.units)
        adversarial = unpacked([row["adversarial_decisions"] for row in rows], self.units)
        return [
            ImageRow(
                **{
                    **row,
                    "clean_decisions": tuple(clean[i].tolist()),
                    "adversarial_decisions": tuple(adversarial[i].tolist()),
                    "trace": tuple(
                        (point["evaluations"], point["macs"], point["squared"])
                        for point in row["trace"]
                    ),
                    "image": row["image"]["bytes"],
                    "adversarial": row["adversarial"]["bytes"],
                }
            )
            for i, row in enumerate(rows)
        ]
