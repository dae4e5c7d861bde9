import hashlib
import io
import json
import pickle
import re
import urllib.error

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bench.datasets import cifar
from bench.datasets.base import open_dataset, subset, subset_digest
from bench.datasets.cifar import CIFAR10, CIFAR10_CLASSES, CIFAR100, CIFAR100_CLASSES
from bench.errors import DataError

N = 12


def pictures(n=N, side=32):
    return np.random.default_rng(1).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


LABELS = np.arange(N) % 10


def encode(picture, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, form)
    return buffer.getvalue()


def write_parquet(path, cells, labels=LABELS, image="image", label="label", metadata=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": cell, "path": None} if isinstance(cell, bytes) else cell for cell in cells]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = pa.table({image: pa.array(cells, kind), label: pa.array(list(labels))})
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path)


def write_folders(root, split="test", labels=LABELS, classes=CIFAR10_CLASSES):
    for index, (picture, label) in enumerate(zip(pictures(), labels, strict=True)):
        folder = root / split / classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:04}.png").write_bytes(encode(picture))


def write_torchvision(root, monkeypatch, kind=CIFAR10):
    """The published layout with our own pictures; the md5 sums are made to match."""
    folder = root / kind.batches
    folder.mkdir(parents=True)
    raw = kind._torchvision()
    key = "labels" if kind is CIFAR10 else "fine_labels"
    batch = {"data": pictures().transpose(0, 3, 1, 2).reshape(N, -1), key: LABELS.tolist()}

    def put(name, document):
        (folder / name).write_bytes(pickle.dumps(document))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    monkeypatch.setattr(raw, "train_list", [put("training", batch)])
    monkeypatch.setattr(raw, "test_list", [put("testing", batch)])
    name, md5 = put("meta", {raw.meta["key"]: list(kind.class_names)})
    monkeypatch.setattr(raw, "meta", {**raw.meta, "filename": name, "md5": md5})
    return folder


def test_a_whole_split_with_labels_of_another_kind_is_refused(tmp_path, monkeypatch):
    """Coarse labels, or the labels of CIFAR-10, are all in the range of CIFAR-100's."""
    monkeypatch.setattr(CIFAR100, "sizes", {"train": 100, "test": 100})
    encoded = [encode(picture) for picture in pictures(100)]
    for count in (20, 10):
        write_parquet(tmp_path / "test.parquet", encoded, np.arange(100) % count)
        with pytest.raises(DataError, match=r"not those of .* of label 0 \(apple\), expected 1"):
            CIFAR100("test", tmp_path)
    write_parquet(tmp_path / "test.parquet", encoded, np.arange(100))
    assert len(CIFAR100("test", tmp_path)) == 100


def test_every_form_gives_the_same_subset(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "sizes", {"train": N, "test": N})
    encoded = [encode(picture) for picture in pictures()]
    write_parquet(tmp_path / "a" / "test.parquet", encoded)
    write_parquet(
        tmp_path / "b" / "data" / "test-00000-of-00002.parquet",
        encoded[:5],
        LABELS[:5],
        image="img",
    )
    write_parquet(
        tmp_path / "b" / "data" / "test-00001-of-00002.parquet",
        encoded[5:],
        LABELS[5:],
        image="img",
    )
    write_parquet(tmp_path / "c" / "plain_text" / "test-00000-of-00001.parquet", encoded)
    write_folders(tmp_path / "d")
    folder = write_torchvision(tmp_path / "e", monkeypatch)
    digests = set()
    for root in [*(tmp_path / form for form in "abcde"), folder]:
        data = CIFAR10("test", root)
        assert (str(data), data.note, len(data)) == ("cifar10:test", "", N)
        digests.add(subset_digest(data, subset(data, 7)))
    assert len(digests) == 1


def test_pixels_survive(tmp_path):
    write_parquet(tmp_path / "test.parquet", [encode(picture) for picture in pictures()])
    data = CIFAR10("test", tmp_path)
    assert np.array_equal(data.pixels(range(N)).transpose(0, 2, 3, 1), pictures())
    assert np.array_equal(data.label_array, LABELS)
    assert data.classes == CIFAR10_CLASSES


def test_jpeg_is_called_jpeg(tmp_path):
    encoded = [encode(picture) for picture in pictures()]
    encoded[-1] = encode(pictures()[-1], "JPEG")
    write_parquet(tmp_path / "test.parquet", encoded)
    data = CIFAR10("test", tmp_path)
    assert str(data) == "cifar10-jpeg:test"
    assert "JPEG" in data.note
    assert data.note.endswith("; 12 of the 10,000 pictures of the split")
    assert CIFAR10.note == ""


def test_cifar100_reads_fine_labels(tmp_path, monkeypatch):
    path = tmp_path / "p" / "test.parquet"
    write_parquet(
        path, [encode(picture) for picture in pictures()], LABELS + 90, label="fine_label"
    )
    assert CIFAR100("test", tmp_path / "p").label_array.max() == 99
    write_torchvision(tmp_path / "t", monkeypatch, CIFAR100)
    assert np.array_equal(CIFAR100("train", tmp_path / "t").label_array, LABELS)
    assert len(CIFAR100_CLASSES) == 100
    assert list(CIFAR100_CLASSES) == sorted(set(CIFAR100_CLASSES))


def test_other_class_numbers_are_refused(tmp_path):
    encoded = [encode(picture) for picture in pictures()]
    turned = list(reversed(CIFAR10_CLASSES))
    hub = {"info": {"features": {"label": {"_type": "ClassLabel", "names": turned}}}}
    for metadata in ({"class_names": ",".join(turned)}, {"huggingface": json.dumps(hub)}):
        write_parquet(tmp_path / "test.parquet", encoded, metadata=metadata)
        with pytest.raises(DataError, match="numbers its classes differently: truck"):
            CIFAR10("test", tmp_path)
    write_parquet(
        tmp_path / "test.parquet", encoded, metadata={"class_names": ",".join(CIFAR10_CLASSES)}
    )
    assert len(CIFAR10("test", tmp_path)) == N


def spoil(index, cell):
    encoded = [encode(picture) for picture in pictures()]
    encoded[index] = cell
    return encoded


@pytest.mark.parametrize(
    ("cells", "labels", "match"),
    [
        pytest.param(
            spoil(3, encode(pictures(1, 28)[0])),
            LABELS,
            r"test\.parquet, row 3: 28x28 pixels, expected 32x32",
            id="size",
        ),
        pytest.param(spoil(4, b"<html>"), LABELS, r"row 4: not a picture", id="no-picture"),
        pytest.param(
            spoil(5, encode(pictures()[5])[:200]), LABELS, r"row 5: not a picture", id="cut"
        ),
        pytest.param(
            spoil(6, {"bytes": None, "path": "x.png"}),
            LABELS,
            r"row 6: no picture bytes",
            id="no-bytes",
        ),
        pytest.param(spoil(7, None), LABELS, r"row 7: no picture bytes", id="nothing"),
        pytest.param(
            spoil(0, encode(pictures()[0])),
            np.where(LABELS == 9, 10, LABELS),
            r"row 9: label 10, expected 0 to 9",
            id="label-too-high",
        ),
        pytest.param(
            spoil(0, encode(pictures()[0])),
            np.where(LABELS == 8, -1, LABELS),
            r"row 8: label -1",
            id="label-negative",
        ),
        pytest.param(
            spoil(0, encode(pictures()[0])),
            [None, *LABELS[1:].tolist()],
            r"row 0: label None",
            id="label-missing",
        ),
        pytest.param(
            spoil(0, encode(pictures()[0])),
            [str(label) for label in LABELS],
            r"labels are string, expected integers",
            id="label-text",
        ),
        pytest.param([], np.array([], dtype=np.int64), r"no picture in", id="no-rows"),
    ],
)
def test_a_bad_row_is_named(tmp_path, cells, labels, match):
    write_parquet(tmp_path / "test.parquet", cells, labels)
    with pytest.raises(DataError, match=match):
        CIFAR10("test", tmp_path)


@pytest.mark.parametrize("twice", ["image", "label"])
def test_a_column_that_is_there_twice_is_named(tmp_path, twice):
    """Which of them is meant is nobody's guess."""
    path = tmp_path / "test.parquet"
    write_parquet(path, [encode(picture) for picture in pictures()])
    table = pq.read_table(path)
    pq.write_table(table.append_column(twice, table.column(twice)), path)
    with pytest.raises(DataError, match=rf"test\.parquet has the column '{twice}' of .* more than"):
        open_dataset("cifar10:test", tmp_path)


def test_missing_columns_are_named(tmp_path):
    encoded = [encode(picture) for picture in pictures()]
    write_parquet(tmp_path / "test.parquet", encoded, image="picture")
    with pytest.raises(
        DataError, match="no column of pictures: expected 'image' or 'img', found picture, label"
    ):
        CIFAR10("test", tmp_path)
    write_parquet(tmp_path / "test.parquet", encoded, label="class")
    with pytest.raises(DataError, match="no column of labels: expected 'fine_label' or 'label'"):
        CIFAR100("test", tmp_path)


@pytest.mark.parametrize("keep", [0, 3, 100, -20])
def test_truncated_parquet(tmp_path, keep):
    path = tmp_path / "test.parquet"
    write_parquet(path, [encode(picture) for picture in pictures()])
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"test\.parquet cannot be read as parquet"):
        CIFAR10("test", tmp_path)


def test_altered_batches_are_not_unpickled(tmp_path, monkeypatch):
    folder = write_torchvision(tmp_path, monkeypatch)

    class Evil:
        def __reduce__(self):
            return (folder.joinpath("ran").write_text, ("",))

    (folder / "testing").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(DataError, match="was altered"):
        CIFAR10("test", tmp_path)
    assert not (folder / "ran").exists()


def test_folders_that_hold_something_else(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        CIFAR10("test", tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is no folder"):
        CIFAR10("test", tmp_path / "file")
    with pytest.raises(
        DataError, match=r"neither cifar-10-batches-py/, nor test\*\.parquet, nor a folder test/"
    ):
        CIFAR10("test", tmp_path)
    (tmp_path / "test" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match="no picture under"):
        CIFAR10("test", tmp_path)
    (tmp_path / "test" / "automobil").mkdir()
    with pytest.raises(DataError, match="did you mean 'automobile'"):
        CIFAR10("test", tmp_path)


def test_without_a_root_it_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match="not been downloaded") as caught:
        CIFAR10("test")
    assert "--data-root" in str(caught.value)
    assert "python -m bench.datasets.cifar cifar10" in str(caught.value)


def test_without_a_root_the_home_is_searched(tmp_path, monkeypatch):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    write_torchvision(tmp_path / "data", monkeypatch)
    assert len(CIFAR10("train")) == N


def test_a_failed_download_is_one_message(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(CIFAR10._torchvision(), "download", refuse)
    assert cifar._main(["cifar10", str(tmp_path)]) == 3
    message = capsys.readouterr().err
    assert re.search("download failed: .*no route to host", message)
    assert "cifar-10-python.tar.gz" in message
    assert cifar._main(["cifar11"]) == 2


def test_a_split_is_its_own_files_complete_and_once(tmp_path):
    encoded = [encode(picture) for picture in pictures()]
    write_parquet(tmp_path / "test.parquet", encoded)
    write_parquet(tmp_path / "test2.parquet", encoded[:3], LABELS[:3])
    write_parquet(tmp_path / "test-extra.parquet", encoded[:3], LABELS[:3])
    assert len(CIFAR10("test", tmp_path)) == N
    (tmp_path / "test.parquet").rename(tmp_path / "test-00001-of-00002.parquet")
    with pytest.raises(DataError, match="1 of the 2 files of test; missing: 0"):
        CIFAR10("test", tmp_path)


def test_junk_beside_pictures_is_skipped(tmp_path):
    write_folders(tmp_path)
    for junk in ("__MACOSX/cat/._a.png", "cat/._0003.png", ".ipynb_checkpoints/a.png", "runs/x.pt"):
        path = tmp_path / "test" / junk
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"junk")
    assert len(CIFAR10("test", tmp_path)) == N


def test_a_parquet_file_is_read_within_bounds(tmp_path, monkeypatch):
    encoded = [encode(picture) for picture in pictures()]
    write_parquet(tmp_path / "test.parquet", [*encoded[:-1], encoded[-1] + bytes(2**20)])
    with pytest.raises(DataError, match=r"row 11: .* bytes, too many for 32x32 pixels"):
        CIFAR10("test", tmp_path)
    write_parquet(tmp_path / "test.parquet", [encoded[0] + bytes(2**19)] * 4, [0] * 4)
    table = pq.read_table(tmp_path / "test.parquet")
    pq.write_table(table, tmp_path / "test.parquet", use_dictionary=False)
    with pytest.raises(DataError, match=r"claims .* bytes for 4 small pictures"):
        CIFAR10("test", tmp_path)
    write_parquet(tmp_path / "test.parquet", encoded)
    monkeypatch.setattr(CIFAR10, "sizes", {"train": 5, "test": 5})
    with pytest.raises(DataError, match="holds 12 images, the split has 5"):
        CIFAR10("test", tmp_path)


def test_one_folder_under_two_labels_is_refused(tmp_path):
    write_folders(tmp_path)
    (tmp_path / "test" / "dog" / "more").symlink_to(tmp_path / "test" / "cat")
    with pytest.raises(DataError, match="classes 'cat' and 'dog' hold the same folder, by a link"):
        CIFAR10("test", tmp_path)
