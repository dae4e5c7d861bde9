import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import PlanError
from bench.files.toml import dump_tables, dump_value, read_setting

scalars = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(keys, st.dictionaries(keys, values, max_size=5), max_size=4))
def test_what_is_written_is_read_back(tables):
    assert tomllib.loads(dump_tables(tables, "two\nlines")) == tables


def test_none_is_left_out():
    assert tomllib.loads(dump_tables({"a": {"b": None, "c": 1}})) == {"a": {"c": 1}}


def test_other_types_are_refused():
    with pytest.raises(TypeError, match="bytes"):
        dump_value(b"x")


SETTINGS = {
    "number": ("depth = 20", ("depth", 20)),
    "word": ("gate=ff", ("gate", "ff")),
    "list": ("kept=[1, 2]", ("kept", [1, 2])),
    "quoted": ('gate="a=b"', ("gate", "a=b")),
    "two lines are no two settings": ("a=1\nb = 2", ("a", "1\nb = 2")),
    "nothing": ("a=", ("a", "")),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_of_the_command_line(case):
    text, expected = SETTINGS[case]
    assert read_setting(text, "depth=20") == expected


@pytest.mark.parametrize("text", ["depth", "=3", " = 3", "a=" + "[" * 100_000], ids="abcd")
def test_settings_that_cannot_be_read(text):
    with pytest.raises(PlanError, match="--set") as refused:
        read_setting(text, "depth=20")
    assert len(str(refused.value)) < 400
