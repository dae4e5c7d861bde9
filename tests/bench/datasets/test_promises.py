"""Data sets of others: what would make a number silently wrong is refused when they are opened."""

import itertools

import numpy as np
import pytest

from bench.contracts.dataset import Dataset, PixelDataset
from bench.datasets.base import open_dataset, subset_digest
from bench.errors import ContractBroken, DataError
from bench.plugins import registry

PICTURES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


class Lazy(Dataset):
    """Four images; every test breaks one promise."""

    name, split, classes, image_shape = "lazy", "test", ("a", "b"), (3, 6, 5)
    ids = ("1", "2", "3", "4")
    label_array = np.array([0, 1, 0, 1])
    kept = PICTURES.transpose(0, 3, 1, 2)

    def __init__(self, split, data_root=None):
        pass

    def pixels(self, indices):
        return self.kept[list(indices)].copy()


COUNT = itertools.count()
RISING = property(lambda self: np.array([0, 1, 0, next(COUNT) % 2]))


def opened(monkeypatch, **broken):
    kind = type("Broken", (Lazy,), broken)
    monkeypatch.setattr(registry, "load", lambda *names: kind)
    return open_dataset("broken:test")


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        pytest.param(
            {"label_array": np.array([1, 2, 1, 2])},
            "labels lie between 1 and 2, there are 2 classes",
            id="labels-from-1",
        ),
        pytest.param({"label_array": np.array([0, -1, 0, 1])}, "between -1 and 1", id="negative"),
        pytest.param({"label_array": np.eye(4, 2)}, r"float64 of shape \(4, 2\)", id="one-hot"),
        pytest.param({"label_array": np.array([0.0, 1, 0, 1])}, "is float64", id="fractions"),
        pytest.param({"label_array": np.array([0, 1, 0])}, r"shape \(3,\)", id="too-few-labels"),
        pytest.param({"label_array": [0, 1, 0, "b"]}, "label_array is <U", id="texts"),
        pytest.param({"ids": ("1", "2", "2", "4")}, "no two images share one", id="ids-twice"),
        pytest.param({"ids": (1, 2, 3, 4)}, "ids are texts", id="ids-numbers"),
        pytest.param({"classes": (0, 1)}, "classes are texts", id="classes-numbers"),
        pytest.param({"image_shape": (6, 5)}, r"image_shape is \(6, 5\)", id="shape"),
        pytest.param({"label_array": RISING}, "differ from one look", id="labels-that-change"),
        pytest.param({"name": "lazy:x"}, "stands before the colon", id="name"),
    ],
)
def test_rows_that_would_be_wrong_without_a_word(monkeypatch, broken, told):
    assert len(opened(monkeypatch)) == 4
    with pytest.raises(ContractBroken, match=told):
        opened(monkeypatch, **broken)


def test_an_attribute_that_is_not_set_is_named(monkeypatch):
    class Unset(Dataset):
        def __init__(self, split, data_root=None):
            self.name, self.split = "unset", split

        def pixels(self, indices):
            raise NotImplementedError

    monkeypatch.setattr(registry, "load", lambda *names: Unset)
    with pytest.raises(ContractBroken, match="does not set classes, ids, label_array, image_shape"):
        open_dataset("unset:test")
    with pytest.raises(DataError, match="lazy:test has no images"):
        opened(monkeypatch, ids=())


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param((PICTURES / 255).astype(np.float32).transpose(0, 3, 1, 2), id="floats"),
        pytest.param(PICTURES, id="channels-last"),
        pytest.param(PICTURES.transpose(0, 3, 1, 2).astype(np.int64), id="int64"),
        pytest.param(PICTURES.transpose(0, 3, 2, 1), id="turned"),
    ],
)
def test_pixels_are_never_rescaled_or_turned(monkeypatch, kept):
    data = opened(monkeypatch, kept=kept)
    with pytest.raises(ContractBroken, match=r"lazy:test: pixels are .* expected \(2, 3, 6, 5\)"):
        data.images([0, 1])
    with pytest.raises(ContractBroken, match="pixels are"):
        subset_digest(data, [0])


@pytest.mark.parametrize(
    ("pictures", "labels"),
    [
        pytest.param((PICTURES / 255).astype(np.float32), np.arange(4) % 2, id="floats"),
        pytest.param(PICTURES[..., 0], np.arange(4) % 2, id="gray"),
        pytest.param(PICTURES, np.arange(3) % 2, id="too-few-labels"),
        pytest.param(PICTURES, np.array([0.0, 1, 0.9, 1]), id="fractions"),
        pytest.param(PICTURES, np.eye(4, 2, dtype=np.int64), id="one-hot"),
    ],
)
def test_hold_takes_what_it_can_keep_exactly(pictures, labels):
    class Held(PixelDataset):
        split = "test"

    with pytest.raises(ContractBroken, match=r"expected"):
        Held().hold(pictures, labels)
