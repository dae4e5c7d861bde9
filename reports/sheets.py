"""The board as a flat table, one row a cell, every statistic with both ends of its interval:
parquet and CSV.

The bytes depend on the board alone: fixed columns, fixed compression, no time and no place.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.contracts.report import BoardReport
from bench.files.atomic import write_atomic
from bench.files.writing import make_folder
from bench.results.headroom import HeadroomEntry
from bench.results.records import Board, BoardCell
from bench.results.stats import UNDEFINED, Estimate
from reports.html.encode import clean, clean_tree

_TEXT = ("board", "key", "target", "defense", "attack", "series", "sees", "status", "reason")
_WHOLE = ("n", "unchanged", "floor", "ceiling", "reference", "linf", "attack_rank")
_PRICE = ("budget", "fit_evaluations")
_REAL = tuple(
    "clean_macs adversarial_macs float_macs block_recovery psnr pooled_psnr ssim l2 evaluations "
    "flip_rate".split()
)
_HEADROOM = ("headroom", "headroom_low", "headroom_high")
_ESTIMATES = tuple(field.name for field in fields(BoardCell) if isinstance(field.default, Estimate))


class Sheets(BoardReport):
    """The board as files: board.parquet and board.csv, one row a cell, every statistic with its
    interval.
    """

    def render(self, board: Board, out: Path) -> None:
        """Write both into the folder `out`, which is made if need be.

        Raises:
            DiskError: the disk refused a write.
        """
        make_folder(Path(out))
        write_parquet(board, Path(out) / "board.parquet")
        write_csv(board, Path(out) / "board.csv")


def flat(board: Board) -> list[dict[str, Any]]:
    """One dictionary a cell; an estimate NAME becomes NAME, NAME_low and NAME_high; what was not
    measured is None.
    """
    measured = {standing.defended: standing.headroom for standing in board.standings}
    return [_row(board, cell, measured.get(cell.defended)) for cell in board.cells]


def _row(board: Board, cell: BoardCell, headroom: HeadroomEntry | None) -> dict[str, Any]:
    row: dict[str, Any] = {"board": clean(board.name)}
    row |= {name: clean(getattr(cell, name)) for name in _TEXT[1:]}
    row["control"] = cell.control
    row["flags"] = clean(" ".join(cell.flags))
    row["submitted_by"] = clean(cell.submission.who) if cell.submission else ""
    row |= {name: getattr(cell, name) for name in _WHOLE}
    for name in _ESTIMATES:
        estimate = getattr(cell, name)
        row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    added = UNDEFINED if headroom is None else headroom.added
    row |= dict(zip(_HEADROOM, (added.value, added.low, added.high), strict=True))
    row |= {
        "budget": _whole(cell.combination.get("budget", board.protocol.get("budget"))),
        "fit_evaluations": cell.fit.get("evaluations"),
    }
    row |= {name: getattr(cell, name) for name in _REAL}
    row["intervals"] = clean(board.intervals)
    row["command"] = clean(cell.command)
    row["inputs"] = json.dumps(clean_tree(cell.inputs), sort_keys=True, allow_nan=False)
    return row


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def columns() -> list[tuple[str, str]]:
    """(name, kind) of every column, in order; kind is text, flag, whole or real."""
    found = (
        [(name, "text") for name in _TEXT]
        + [("control", "flag"), ("flags", "text"), ("submitted_by", "text")]
        + [(name, "whole") for name in _WHOLE]
    )
    for name in _ESTIMATES:
        found += [(name, "real"), (f"{name}_low", "real"), (f"{name}_high", "real")]
    found += [(name, "real") for name in _HEADROOM]
    found += [(name, "whole") for name in _PRICE]
    return (
        found
        + [(name, "real") for name in _REAL]
        + [(name, "text") for name in ("intervals", "command", "inputs")]
    )


def parquet_bytes(board: Board) -> bytes:
    """The table as a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"text": pa.string(), "flag": pa.bool_(), "whole": pa.int64(), "real": pa.float64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns()])
    table = pa.Table.from_pylist(flat(board), schema=schema)
    out = pa.BufferOutputStream()
    pq.write_table(
        table,
        out,
        compression="zstd",
        compression_level=3,
        row_group_size=65536,
        version="2.6",
        data_page_version="1.0",
    )
    return bytes(out.getvalue().to_pybytes())


def csv_bytes(board: Board) -> bytes:
    """The table as CSV: UTF-8, a header, empty where nothing was measured, numbers in full
    precision.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [name for name, _ in columns()]
    writer.writerow(names)
    for row in flat(board):
        writer.writerow([_entry(row[name]) for name in names])
    return out.getvalue().encode("utf-8")


def _entry(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    # A spreadsheet would take these for a formula. Names of honest parts never begin so.
    return f"'{value}" if value[:1] in ("=", "+", "-", "@", "\t") else value


def write_parquet(board: Board, path: Path) -> None:
    """Write `parquet_bytes` to `path`, whole or not at all."""
    write_atomic(Path(path), parquet_bytes(board))


def write_csv(board: Board, path: Path) -> None:
    """Write `csv_bytes` to `path`, whole or not at all."""
    write_atomic(Path(path), csv_bytes(board))
