"""Documents that two readers would read as two things are read by none."""

import math

import pytest

from bench.errors import NotComparable, RunFolderError
from bench.regression.baseline import Baseline
from bench.store.documents import parse, read_json

TEXTS = [
    pytest.param('{"a": 1, "a": 2}', "the key 'a' is there twice", id="key-twice"),
    pytest.param('{"x": [{"b": 1, "c": 2, "b": 1}]}', "the key 'b' is there twice", id="inside"),
    pytest.param('{"a": NaN}', "NaN is no finite number", id="nan"),
    pytest.param('{"a": -Infinity}', "-Infinity is no finite number", id="infinity"),
    pytest.param('{"a": 1e999}', "1e999 is no finite number", id="overflow"),
    pytest.param('{"a": 9223372036854775808}', "does not fit into 64 bits", id="too-large"),
]


@pytest.mark.parametrize(("text", "said"), TEXTS)
def test_every_reader_refuses(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_json(path)
    with pytest.raises(NotComparable, match=said):
        Baseline.read(path)


def test_numbers_stay_what_they_are():
    found = parse(b'{"a": -9223372036854775808, "b": -0.0, "c": 1e308, "d": {"a": 1}}')
    assert found == {"a": -(2**63), "b": 0.0, "c": 1e308, "d": {"a": 1}}
    assert math.copysign(1, found["b"]) == -1
