"""The rows of a cell as people and reports see them: one an image, one a unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

from bench.store.folder import CellFolder
from bench.store.schema import DECISIONS, unpack
from bench.store.schema import TRACE_POINTS as TRACE_POINTS
from bench.store.schema import pack as pack
from bench.store.target import UnitColumns


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
        clean_macs, adversarial_macs, float_macs: executed MACs of the clean image, of the saved
            adversarial image, and of the float image before it was saved.
        jpeg_macs: of the saved adversarial image after a JPEG round trip of quality 90; None in
            runs older than this column.
        held, flipped: units that stood open at an evaluation of the attack, and those of them
            closed at the next one.
        clean_decisions, adversarial_decisions: (U,) whether each unit ran.
        linf: largest |D| in grey levels.
        squared: integer sum of D^2;
        l2: in [0,1] pixel units; psnr in dB; ssim.
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


@lru_cache(maxsize=64)
def unit_rows(units: UnitColumns) -> tuple[UnitRow, ...]:
    """The units of a target, one by one."""
    columns = units.name, units.kind, units.owner, units.shape, units.cost, units.threshold
    return tuple(UnitRow(*values) for values in zip(*columns, strict=True))


@dataclass(frozen=True)
class Rows:
    """Loads the images of a cell when called, or only a part of what there is.

    Attributes:
        store: the cell on disk.
        units: of its target.
        size: (width, height) that its pictures must have; None where older runs do not say it.
    """

    store: CellFolder
    units: int
    size: tuple[int, int] | None

    def __call__(self) -> Sequence[ImageRow]:
        return image_rows(self.store.table(size=self.size), self.units)

    def some(self, places: Sequence[int]) -> Sequence[ImageRow]:
        """The images at these places, pictures and all."""
        found: dict[int, ImageRow] = {}
        for shard in self.store.shards():
            inside = sorted({place for place in places if shard.first <= place <= shard.last})
            if inside:
                table = self.store.shard_table(shard, size=self.size)
                here = table.take([place - shard.first for place in inside])
                found |= zip(inside, image_rows(here, self.units), strict=True)
        return [found[place] for place in places]


def image_rows(table: pa.Table, units: int) -> list[ImageRow]:
    """The rows of a table with all columns of a shard."""
    rows = table.to_pylist()
    for name in DECISIONS:
        decisions = unpack([row[name] for row in rows], units).tolist()
        for row, ran in zip(rows, decisions, strict=True):
            row[name] = tuple(ran)
    for row in rows:
        row["trace"] = tuple(
            (point["evaluations"], point["macs"], point["squared"]) for point in row["trace"]
        )
        row |= {name: row[name]["bytes"] for name in ("image", "adversarial")}
    return [ImageRow(**row) for row in rows]
