"""The columns of a row: one table, from which shards, sums, boards, ensembles and baselines derive.

A row is what one image of one cell came to. Whoever adds a column adds a line here, a field to
`bench.results.rows.ImageRow` and the value in `bench.evaluation.record`; a test holds the three
together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from bench.contracts.threat import PSNR_CAP
from bench.terminal import counted

PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""A PNG file in the struct that viewers of data sets understand."""
POINT = pa.struct([("evaluations", pa.int64()), ("macs", pa.int64()), ("squared", pa.float64())])
"""A point of a trace: forward-equivalents used, MACs and sum of D^2 of the best image so far."""
TRACE_POINTS = 32
"""Points of a trace at most."""
MOST = 2**53
"""The largest number of a row: up to here, whole numbers are exact as floats too."""


@dataclass(frozen=True)
class Column:
    """One column of a row.

    Attributes:
        name: as in the shard, and of the field of `bench.results.rows.ImageRow`.
        type: in the shard.
        meaning: what it holds, with its unit.
        summed: whether its sum over a cell is written when the cell is sealed.
        spent: whether an ensemble has the sum over its members, not the value of the strongest.
        optional: whether older runs lack it; it is None there.
        least: smallest value of a number.
        most: largest value of a number.
    """

    name: str
    type: pa.DataType
    meaning: str
    summed: bool = False
    spent: bool = False
    optional: bool = False
    least: float = 0
    most: float = MOST

    @property
    def nested(self) -> bool:
        """Whether it holds a picture or a trace."""
        return bool(pa.types.is_nested(self.type))


_INT, _REAL, _BITS = pa.int64(), pa.float64(), pa.binary()

COLUMNS = (
    Column("id", pa.string(), "stable id of the image"),
    Column("label", _INT, "true class"),
    Column("clean_prediction", _INT, "class of the clean image"),
    Column("adversarial_prediction", _INT, "class of the saved adversarial image"),
    Column("clean_macs", _INT, "MACs that the clean image executes", summed=True),
    Column(
        "adversarial_macs",
        _INT,
        "MACs that the saved adversarial image executes",
        summed=True,
    ),
    Column("float_macs", _INT, "MACs of the float image before it was saved", summed=True),
    Column(
        "jpeg_macs",
        _INT,
        "MACs of the saved image after a JPEG round trip of quality 90",
        summed=True,
        optional=True,
    ),
    Column("clean_decisions", _BITS, "whether each unit ran, packed (see `pack`)"),
    Column("adversarial_decisions", _BITS, "whether each unit ran, packed (see `pack`)"),
    Column("linf", _INT, "largest |D| in grey levels", most=255),
    Column("squared", _INT, "sum of D^2 in squared grey levels", summed=True),
    Column("l2", _REAL, "L2 distance in [0, 1] pixel units"),
    Column("psnr", _REAL, "PSNR in dB, at most `bench.image.PSNR_CAP`", most=PSNR_CAP),
    Column("ssim", _REAL, "structural similarity, at most 1", least=-1.000001, most=1.000001),
    Column("evaluations", _INT, "forward-equivalents that the attack used", spent=True),
    Column("forwards", _INT, "forward passes that the attack used", summed=True, spent=True),
    Column("backwards", _INT, "backward passes that the attack used", summed=True, spent=True),
    Column(
        "held",
        _INT,
        "units that stood open at an evaluation of the attack",
        summed=True,
        spent=True,
        optional=True,
    ),
    Column(
        "flipped",
        _INT,
        "those of `held` that were closed at the next evaluation",
        summed=True,
        spent=True,
        optional=True,
    ),
    Column(
        "near_threshold",
        _INT,
        "units whose margin lay within the target's own float noise",
        summed=True,
    ),
    Column(
        "overshoot",
        pa.bool_(),
        "whether the attack left its threat and was pulled back",
        summed=True,
    ),
    Column(
        "trace",
        pa.list_(POINT),
        f"the best image so far over the attack's evaluations, at most {TRACE_POINTS} points",
    ),
    Column("image", PICTURE, "the clean image"),
    Column("adversarial", PICTURE, "the saved adversarial image"),
)
"""All columns, in the order of a shard."""

ROWS = pa.schema([(column.name, column.type) for column in COLUMNS])
"""The schema of a shard."""

NESTED = tuple(column for column in COLUMNS if column.nested)
"""The columns that hold pictures and traces."""

DECISIONS = ("clean_decisions", "adversarial_decisions")
"""The columns that hold packed bits."""


def names(*, summed: bool = False, spent: bool = False, plain: bool = False) -> list[str]:
    """The names of the columns that are all of what is asked for, in order.

    Args:
        summed: those whose sums are written when a cell is sealed.
        spent: those that an ensemble sums over its members.
        plain: those without pictures and traces.
    """
    return [
        column.name
        for column in COLUMNS
        if (column.summed or not summed)
        and (column.spent or not spent)
        and not (plain and column.nested)
    ]


def check_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """Refuse rows with a column that there is not, or without one that every row has.

    Raises:
        ValueError: naming the column.
    """
    known = {column.name: column for column in COLUMNS}
    for row in rows:
        if strange := [name for name in row if name not in known]:
            raise ValueError(f"a row has no column {strange[0]!r}")
        for name, column in known.items():
            if row.get(name) is None and not column.optional:
                raise ValueError(f"a row lacks its column {name!r}")


def check_table(table: pa.Table, images: int) -> None:
    """Refuse the rows of a cell that are not one whole row for each image of its protocol, or that
    hold numbers which cannot be meant.

    Args:
        table: some columns of a cell, the ids among them.
        images: of the protocol.

    Raises:
        ValueError: saying what is wrong.
    """
    ids = table["id"]
    different = len(pc.unique(ids))
    if table.num_rows != images or different != images:
        raise ValueError(f"it holds {counted(different, 'image')}, its protocol says {images}")
    there = set(table.column_names)
    for column in COLUMNS:
        if column.name not in there:
            continue
        values = table[column.name]
        if values.null_count and not column.optional:
            raise ValueError(f"{column.name} is missing in {values.null_count} of its rows")
        if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            _check_numbers(column, values, images)


def _check_numbers(column: Column, values: pa.ChunkedArray | pa.Array, images: int) -> None:
    """Refuse values that cannot be meant, or cannot be added up.

    Raises:
        ValueError: naming the column.
    """
    if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values)).as_py():
        raise ValueError(f"{column.name} is no finite number in all of its rows")
    extremes = pc.min_max(values).as_py()
    for value in extremes.values():
        if value is not None and not column.least <= value <= column.most:
            raise ValueError(f"{column.name} is {value} in one of its rows")
    if column.summed and (extremes["max"] or 0) * images >= 2**63:
        raise ValueError(f"{column.name} is too large to be added up")


def pack(decisions: npt.ArrayLike) -> list[bytes]:
    """Decisions as they are stored: packed bits, the first unit in the highest bit.

    Args:
        decisions: (N, U) bool.

    Returns:
        N strings of ceil(U / 8) bytes.
    """
    return [np.packbits(row).tobytes() for row in np.asarray(decisions, dtype=bool)]


def unpack(packed: Sequence[bytes], units: int) -> npt.NDArray[np.bool_]:
    """Decisions from how they are stored.

    Args:
        packed: N strings, as `pack` made them.
        units: U.

    Returns:
        (N, U) bool.

    Raises:
        ValueError: a string has not the length of `units` decisions.
    """
    return np.unpackbits(packed_bits(packed, units), axis=1, count=units).astype(np.bool_)


def packed_bits(packed: Sequence[bytes], units: int) -> npt.NDArray[np.uint8]:
    """Decisions as they are stored, as one array.

    Args:
        packed: N strings, as `pack` made them.
        units: U.

    Returns:
        (N, ceil(U / 8)) uint8.

    Raises:
        ValueError: a string has not the length of `units` decisions.
    """
    size = -(-units // 8)
    if set(map(len, packed)) - {size}:
        raise ValueError(f"decisions of {counted(units, 'unit')} are {counted(size, 'byte')} long")
    return np.frombuffer(b"".join(packed), dtype=np.uint8).reshape(len(packed), size)


def check_nested(batch: pa.RecordBatch) -> None:
    """Refuse pictures and traces with holes, or with points that cannot be meant.

    Args:
        batch: some rows of a shard, any columns.

    Raises:
        ValueError: naming the column.
    """
    there = set(batch.schema.names)
    for column in NESTED:
        if column.name in there:
            _check_nested(column, batch.column(column.name))


def _check_nested(column: Column, values: pa.Array) -> None:
    """Refuse pictures or traces; see `check_nested`.

    Raises:
        ValueError: naming the column.
    """
    if column.type == PICTURE:
        parts = [values.field("bytes")]
    else:
        points = values.flatten()
        parts = [points, *(points.field(name) for name in POINT.names)]
    if values.null_count or any(part.null_count for part in parts):
        raise ValueError(f"{column.name} is missing in part of its rows")
    for part in parts[1:]:
        if len(part):
            _check_numbers(column, part, 0)
