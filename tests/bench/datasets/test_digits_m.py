import hashlib
import io
import lzma

import numpy as np
import pytest

from bench.datasets import digits_m
from bench.datasets.base import subset, subset_digest
from bench.datasets.digits_m import FILE, SHA256, DigitsM
from bench.errors import DataError


@pytest.fixture(scope="module")
def train():
    return DigitsM("train")


@pytest.fixture(scope="module")
def test():
    return DigitsM("test")


def test_what_it_holds(train, test):
    for data in (train, test):
        assert len(data) == DigitsM.sizes[data.split] == len(set(data.ids))
        assert data.image_shape == (3, 32, 32)
        assert np.array_equal(np.unique(data.label_array), np.arange(10))
    assert np.bincount(test.label_array).tolist() == [50] * 10
    assert train.note == "for trying, not for claims"
    assert {"danielbuechele", "vultilion"} <= {
        word for line in train.credits for word in line.replace(",", "").split()
    }


def test_no_digit_is_in_both(train, test):
    assert not set(train.digits) & set(test.digits)
    assert set(np.bincount(train.digits)) == {0, 4}
    assert set(np.bincount(test.digits)) == {0, 1}
    assert len(set(train.digits)) + len(set(test.digits)) == 1797


def test_easy_and_hard(train):
    assert train.opacity.min() == 35
    assert train.opacity.max() == 100
    assert 60 < train.opacity.mean() < 75


def test_results_of_years_ago_are_on_these_images(test):
    assert hashlib.sha256(FILE.read_bytes()).hexdigest() == SHA256
    assert (
        subset_digest(test, subset(test, 100))
        == "92673bb0f37cd053f7411b785f47a0e026daffca64686ab90d87fc4d46ea2f74"
    )


def test_altered_missing_or_cut_short(tmp_path, monkeypatch):
    packed = bytearray(FILE.read_bytes())
    for data, match in ((bytes(packed[:-1]), "altered or is not whole"), (None, "cannot read")):
        file = tmp_path / "pixels"
        file.unlink(missing_ok=True)
        if data is not None:
            file.write_bytes(data)
        monkeypatch.setattr(digits_m, "FILE", file)
        with pytest.raises(DataError, match=match):
            DigitsM("test")


def test_small_enough_to_ship():
    assert FILE.stat().st_size < 8_000_000


@pytest.mark.slow  # draws the whole data set again
def test_the_generator_draws_these_pixels():
    pytest.importorskip("sklearn")
    from bench.datasets.make_digits_m import draw

    drawn = draw()
    with np.load(io.BytesIO(lzma.decompress(FILE.read_bytes()))) as shipped:
        for key in shipped.files:
            # another JPEG decoder may differ by a level or two; the shipped pixels are what counts
            assert np.abs(
                drawn[key].astype(int) - shipped[key].astype(int)
            ).max() <= 3 * key.endswith("images")


def test_photographs_are_divided_too(train, test):
    datasets = pytest.importorskip("sklearn.datasets")
    photos = [datasets.load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    left = b"".join(photo[:, :320].tobytes() for photo in photos)
    right = b"".join(photo[:, 320:].tobytes() for photo in photos)
    for data, own, other in ((train, left, right), (test, right, left)):
        rows = [picture[row].tobytes() for picture in data._pictures[:80] for row in (0, -1)]
        bare = [row for row in rows if row in own or row in other]
        assert len(bare) > 30, "most pictures show an undrawn row of the photograph"
        assert sum(row in own for row in bare) == len(bare)


def test_labels_are_those_of_the_digits_drawn(train, test):
    table = pytest.importorskip("sklearn.datasets").load_digits()
    assert np.array_equal(table.target[train.digits], train.label_array)
    assert np.array_equal(table.target[test.digits], test.label_array)
