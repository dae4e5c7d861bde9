"""Files that people write: a byte-order mark is no mistake in any of them, and what is not UTF-8 is
told in words."""

import sys

import numpy as np
import pytest
from PIL import Image

from bench.datasets.folder import ImageFolder
from bench.errors import GatebenchError, NotComparable
from bench.files.settings import settings
from bench.files.text import text_of
from bench.plans.toml import read_source
from bench.plugins.sources import read_module
from bench.regression.baseline import Baseline
from bench.store.documents import parse
from bench.weights.manifest import read_manifest

MARK = b"\xef\xbb\xbf"


def plan(folder, text):
    (folder / "plan.toml").write_bytes(text)
    return read_source(str(folder / "plan.toml")).document


def config(folder, text):
    (folder / "config.toml").write_bytes(text)
    return settings()


def manifest(folder, text):
    (folder / "manifest.toml").write_bytes(text)
    return read_manifest(folder)


def classes(folder, text):
    for name in ("1", "2"):
        (folder / name).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folder / name / "one.png")
    (folder / "classes.txt").write_bytes(text)
    return ImageFolder("val", folder).classes


READERS = [
    pytest.param(plan, 'name = "é"', id="plan"),
    pytest.param(config, 'out = "é"', id="config"),
    pytest.param(manifest, "# é\n", id="manifest"),
    pytest.param(classes, "1\n2\né\n", id="classes"),
]


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    for name in ("GATEBENCH_OUT", "GATEBENCH_DATA_ROOT", "GATEBENCH_DEVICE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))


@pytest.mark.parametrize(("read", "text"), READERS)
def test_a_byte_order_mark_changes_nothing(tmp_path, read, text):
    assert read(tmp_path, MARK + text.encode()) == read(tmp_path, text.encode())


@pytest.mark.parametrize(("read", "text"), READERS)
def test_other_encodings_are_named(tmp_path, read, text):
    for encoding in ("utf-16", "utf-16-be"):
        mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
        with pytest.raises(GatebenchError, match="it is UTF-16; save it as UTF-8"):
            read(tmp_path, mark + text.encode(encoding))
    with pytest.raises(GatebenchError, match=r"byte \d+, on line [123], is no UTF-8") as caught:
        read(tmp_path, text.encode("latin-1"))
    assert "codec" not in caught.value.message


def test_lines_are_counted():
    with pytest.raises(ValueError, match="byte 4, on line 3, is no UTF-8"):
        text_of(b"a\nb\n\xff")
    assert text_of(MARK + MARK) == "\ufeff", "one mark is left out"


def test_documents_of_json_too(tmp_path):
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-be"):
        assert parse('{"a": "é"}'.encode(encoding)) == {"a": "é"}, "a shell may write UTF-16"
    (tmp_path / "base.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(NotComparable, match="byte 7 is no UTF-8"):
        Baseline.read(tmp_path / "base.json")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(MARK, id="mark"),
        pytest.param(b"# -*- coding: latin-1 -*-\n# \xe9\n", id="declared"),
    ],
)
def test_modules_are_read_as_python_reads_them(tmp_path, monkeypatch, head):
    """A plugin that Python imports is read without importing it."""
    (tmp_path / "written_elsewhere.py").write_bytes(head + b"class Thing:\n    size = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = [node.name for node in read_module("written_elsewhere").tree.body]
    __import__("written_elsewhere")
    assert names == ["Thing"]
    assert sys.modules.pop("written_elsewhere").Thing.size == 3
