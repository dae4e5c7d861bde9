"""Whatever lies in a data set: pictures with labels or one message, and nothing of it runs."""

import io
import os
import unicodedata

import fuzz
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.codec import as_rgb, read_picture
from bench.datasets.base import subset, subset_digest
from bench.datasets.cifar import CIFAR10
from bench.datasets.folder import FORMATS, ImageFolder
from bench.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def encoded(form, mode="RGB", **options):
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


PICTURES = (
    encoded("PNG"), encoded("PNG", "P"), encoded("PNG", "RGBA"), encoded("PNG", "1"),
    encoded("JPEG"), encoded("JPEG", "CMYK"), encoded("JPEG", progressive=True),
    encoded("BMP"), encoded("PPM"), encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", "F"),
    encoded("WEBP"), encoded("GIF"), encoded("TGA"), encoded("EPS"), encoded("ICO"), encoded("PCX"),
)  # fmt: skip


@fuzz.fuzzed(200)
@given(data=fuzz.mutated(PICTURES))
def test_edited_pictures(data):
    with fuzz.nothing_runs():
        try:
            picture = as_rgb(read_picture(data, FORMATS, None))
        except DataError:
            return
    assert picture.mode == "RGB"
    assert picture.format in (None, "MPO", *FORMATS)


def parquet(**options):
    cells = [{"bytes": data, "path": "x.png"} for data in PICTURES[:2]]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    buffer = io.BytesIO()
    table = pa.table({"image": pa.array(cells, kind), "label": pa.array([0, 1])})
    pq.write_table(table, buffer, **options)
    return buffer.getvalue()


SHARDS = (parquet(), parquet(compression="zstd"), parquet(compression="none", use_dictionary=False))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@fuzz.fuzzed(100)
@given(data=fuzz.mutated(SHARDS))
def test_edited_shards(root, data):
    (root / "test.parquet").write_bytes(data)
    with fuzz.nothing_runs():
        try:
            found = CIFAR10("test", root)
        except DataError:
            return
    assert found.pixels(range(len(found))).shape[1:] == (3, 32, 32)
    assert ((found.label_array >= 0) & (found.label_array < 10)).all()


CELLS = st.one_of(
    st.none(), st.integers(0, 3), st.sampled_from(PICTURES), st.text(max_size=3),
    st.fixed_dictionaries({"bytes": st.sampled_from(PICTURES) | st.none() | st.binary(max_size=3)}),
)  # fmt: skip


@fuzz.fuzzed(60)
@given(
    cells=st.lists(CELLS, max_size=3),
    labels=st.lists(st.integers(-1, 10) | st.none() | st.floats(0, 1), min_size=3, max_size=3),
    names=st.tuples(
        st.sampled_from(["image", "img", "x"]), st.sampled_from(["label", "fine_label", "y"])
    ),
)
def test_shards_of_any_columns(root, cells, labels, names):
    try:
        table = pa.table({names[0]: pa.array(cells), names[1]: pa.array(labels[: len(cells)])})
    except (pa.ArrowException, TypeError, ValueError):
        return
    pq.write_table(table, root / "test.parquet")
    try:
        assert len(CIFAR10("test", root)) == len(cells)
    except DataError:
        return


NAMES = st.sampled_from(
    [b"train", b"val", b"test", b"Valid", b"cat", b"dog", b"10", b"2", b"caf\xe9", "thé".encode(), b".x",
     b"__MACOSX", b"checkpoints", b"\xff", b"a b", b"new\nline", b"Cat", b"cat ", b"images", b"unknown",
     unicodedata.normalize("NFD", "thé").encode(), b"test1", b"classes.txt"]
)  # fmt: skip
FILES = st.sampled_from([b"a.png", b"a.JPG", b"._a.png", b"b.png", b"x.txt", b"\xfe.png", b"c.gif"])


@fuzz.fuzzed(60)
@given(
    paths=st.sets(
        st.lists(NAMES, max_size=3).flatmap(lambda way: FILES.map(lambda file: (*way, file))),
        max_size=8,
    ),
    split=st.sampled_from(ImageFolder.splits),
)
def test_folders_of_any_shape(tmp_path_factory, paths, split):
    root = tmp_path_factory.mktemp("tree")
    for path in paths:
        place = os.path.join(os.fsencode(root), *path)
        os.makedirs(os.path.dirname(place), exist_ok=True)
        with open(place, "wb") as file:
            file.write(PICTURES[0])
    try:
        found = ImageFolder(split, root)
    except DataError:
        return
    assert len(set(found.ids)) == len(found) > 0
    for name, label in zip(found.ids, found.label_array, strict=True):
        assert name.partition("/")[0] == found.classes[label]
    assert ((found.label_array >= 0) & (found.label_array < len(found.classes))).all()
    assert not {name.lower() for name in found.classes} & {"__macosx", ".x"}
    subset_digest(found, subset(found, 1))
