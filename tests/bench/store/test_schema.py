"""The one table of a row's columns: everything that names columns agrees with it."""

from dataclasses import MISSING, fields

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.results.rows import ImageRow
from bench.store.schema import (
    COLUMNS,
    DECISIONS,
    ROWS,
    check_rows,
    check_table,
    names,
    pack,
    unpack,
)


def test_columns_are_named_once_and_make_the_schema_of_a_shard():
    assert len({column.name for column in COLUMNS}) == len(COLUMNS)
    assert ROWS.names == [column.name for column in COLUMNS]
    assert all(column.meaning for column in COLUMNS)
    assert all(ROWS.field(name).type == pa.binary() for name in DECISIONS)


def test_an_image_row_has_a_field_for_every_column_and_no_other():
    found = {field.name: field for field in fields(ImageRow)}
    assert set(found) == {column.name for column in COLUMNS}
    for column in COLUMNS:
        assert (found[column.name].default is None) == column.optional, column.name
        assert column.optional or found[column.name].default is MISSING


def test_what_is_read_for_what():
    assert set(names(summed=True)) == {
        *("clean_macs", "adversarial_macs", "float_macs", "jpeg_macs", "squared"),
        *("forwards", "backwards", "held", "flipped", "near_threshold", "overshoot"),
    }
    assert names(spent=True) == ["evaluations", "forwards", "backwards", "held", "flipped"]
    assert set(names()) - set(names(plain=True)) == {"trace", "image", "adversarial"}
    for name in names(summed=True):
        assert ROWS.field(name).type in (pa.int64(), pa.bool_()), "sums are exact"


@given(st.integers(0, 5), st.integers(0, 40), st.randoms(use_true_random=False))
def test_packing_and_unpacking_are_inverse(images, units, random):
    decisions = np.array([[random.random() < 0.5 for _ in range(units)] for _ in range(images)])
    decisions = decisions.reshape(images, units).astype(bool)
    packed = pack(decisions)
    assert [len(row) for row in packed] == [(units + 7) // 8] * images
    assert np.array_equal(unpack(packed, units), decisions)


def test_the_first_unit_is_the_highest_bit():
    assert pack([[True, False, True, False, False, False, False, False, True]]) == [b"\xa0\x80"]


@pytest.mark.parametrize(("row", "units"), [(b"", 1), (b"\x00", 9), (b"\x00\x00", 8)])
def test_bits_of_another_number_of_units_are_refused(row, units):
    with pytest.raises(ValueError, match=f"decisions of {units} unit"):
        unpack([row], units)


def test_rows_have_the_columns_that_there_are():
    empty = {"string": "x", "int64": 0, "double": 0.5, "binary": b"\x80", "bool": False}
    row = {c.name: empty.get(str(c.type), []) for c in COLUMNS}
    check_rows([row, {name: value for name, value in row.items() if name != "jpeg_macs"}])
    with pytest.raises(ValueError, match="lacks its column 'psnr'"):
        check_rows([row, {**row, "psnr": None}])
    with pytest.raises(ValueError, match="no column 'speed'"):
        check_rows([{**row, "speed": 1}])


def test_a_cell_has_a_whole_row_for_each_image():
    check_table(pa.table({"id": ["a", "b"], "label": [1, 0]}), 2)
    with pytest.raises(ValueError, match=r"label is missing in 1 of its rows"):
        check_table(pa.table({"id": ["a", "b"], "label": [1, None]}), 2)
    with pytest.raises(ValueError, match="holds 1 image, its protocol says 2"):
        check_table(pa.table({"id": ["a", "a"], "label": [1, 1]}), 2)
