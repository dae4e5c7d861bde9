"""The flat table as parquet and CSV."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields, replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from synthetic import full_board

from bench.errors import DiskError
from bench.results.records import BoardCell
from bench.results.stats import Estimate
from reports.sheets import Sheets, columns, csv_bytes, flat, parquet_bytes

BOARD = full_board(n=6)


def test_one_row_a_cell_with_both_ends_of_every_interval() -> None:
    table = pq.read_table(io.BytesIO(parquet_bytes(BOARD)))
    assert table.num_rows == len(BOARD.cells)
    row, cell = table.to_pylist()[0], BOARD.cells[0]
    for field in fields(BoardCell):
        value = getattr(cell, field.name)
        if isinstance(value, Estimate):
            assert (row[field.name], row[f"{field.name}_low"], row[f"{field.name}_high"]) == (
                value.value,
                value.low,
                value.high,
            )
        elif field.name not in (
            "rows",
            "units",
            "classes",
            "environment",
            "inputs",
            "flags",
            "combination",
            "fit",
            "digest",
            "submission",
            "refused",
        ):
            assert row[field.name] == value
    assert json.loads(row["inputs"]) == cell.inputs


def test_what_was_not_measured_is_empty_and_not_zero() -> None:
    rows = pq.read_table(io.BytesIO(parquet_bytes(BOARD))).to_pylist()
    failed = next(row for row in rows if row["status"] == "failed")
    assert failed["recovery"] is failed["psnr"] is failed["clean_macs"] is None
    lines = list(csv.DictReader(io.StringIO(csv_bytes(BOARD).decode())))
    assert next(line for line in lines if line["status"] == "failed")["recovery"] == ""


def test_csv_and_parquet_say_the_same_in_full_precision() -> None:
    rows = pq.read_table(io.BytesIO(parquet_bytes(BOARD))).to_pylist()
    lines = list(csv.DictReader(io.StringIO(csv_bytes(BOARD).decode())))
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        for name, kind in columns():
            if kind in ("real", "whole") and row[name] is not None:
                assert float(line[name]) == row[name]
            elif kind == "text":
                assert line[name] == row[name]


def test_the_columns_are_those_of_the_rows() -> None:
    assert [name for name, _ in columns()] == list(flat(BOARD)[0]) == list(flat(BOARD)[-1])


def test_the_bytes_depend_on_the_board_alone() -> None:
    assert parquet_bytes(BOARD) == parquet_bytes(full_board(n=6))
    assert csv_bytes(BOARD) == csv_bytes(full_board(n=6))


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1"])
def test_names_are_no_formulas(name: str) -> None:
    text = csv_bytes(replace(BOARD, cells=(replace(BOARD.cells[0], attack=name),))).decode()
    (line,) = csv.DictReader(io.StringIO(text))
    assert line["attack"] == f"'{name}"


def test_as_a_report_it_makes_its_folder(tmp_path: Path) -> None:
    Sheets().render(BOARD, tmp_path / "board-0")
    assert {path.name for path in (tmp_path / "board-0").iterdir()} == {
        "board.csv",
        "board.parquet",
    }
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskError):
        Sheets().render(BOARD, tmp_path / "file" / "below")
