import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.contracts.dataset import PixelDataset, content_ids
from bench.datasets.base import (
    check_classes,
    check_disjoint,
    classes_digest,
    open_dataset,
    parse_name,
    rows_digest,
    subset,
    subset_digest,
)
from bench.errors import DataError, PlanError, UnknownName


class Toy(PixelDataset):
    """Random pictures."""

    def __init__(self, n=20, seed=0, order=None, split="test"):
        random = np.random.default_rng(seed)
        pictures, labels = (
            random.integers(0, 256, (n, 4, 6, 3), dtype=np.uint8),
            random.integers(0, 3, n),
        )
        order = np.arange(n) if order is None else order
        self.name, self.split, self.classes = "toy", split, ("a", "b", "c")
        self.hold(pictures[order], labels[order])


def test_images_and_labels_are_tensors_of_the_promised_kind():
    data = Toy()
    images = data.images([3, 1])
    assert images.shape == (2, 3, 4, 6) == (2, *data.image_shape)
    assert images.dtype == torch.uint8
    assert data.labels.dtype == torch.int64
    assert len(data.labels) == len(data) == len(data.ids) == 20
    assert str(data) == "toy:test"
    images.zero_()
    assert data.images([3]).any(), "a caller's edit must not reach the data set"


def test_channels_come_first():
    data = Toy()
    assert torch.equal(data.images([5])[0, 1], torch.from_numpy(data._pictures[5][:, :, 1]))


def test_ids_do_not_depend_on_order():
    straight, reversed_ = Toy(), Toy(order=np.arange(20)[::-1])
    assert straight.ids == tuple(reversed(reversed_.ids))
    assert [straight.ids[i] for i in subset(straight, 7)] == [
        reversed_.ids[i] for i in subset(reversed_, 7)
    ]
    assert subset_digest(straight, subset(straight, 7)) == subset_digest(
        reversed_, subset(reversed_, 7)
    )


def test_ids_are_pinned():
    black = np.zeros((1, 2, 2, 3), dtype=np.uint8)
    assert content_ids("test", black, np.zeros(1)) == (
        "test-15ec7bf0b50732b4",
    )  # sha256 of twelve zero bytes


def test_repeated_pictures_are_told_apart_by_label():
    pictures = np.zeros((3, 2, 2, 3), dtype=np.uint8)
    there = dict(zip(content_ids("t", pictures, np.array([2, 0, 1])), [2, 0, 1], strict=True))
    back = dict(zip(content_ids("t", pictures, np.array([0, 1, 2])), [0, 1, 2], strict=True))
    assert there == back
    assert len(there) == 3


@given(st.integers(1, 19))
def test_smaller_subsets_lie_in_larger_ones(n):
    data = Toy()
    assert subset(data, n + 1)[:n] == subset(data, n)
    assert len(set(subset(data, n))) == n


def test_more_than_there_are():
    with pytest.raises(PlanError, match="21 asked for, toy:test has 20"):
        subset(Toy(), 21)
    with pytest.raises(PlanError, match="at least 1"):
        subset(Toy(), 0)


def test_digest_sees_pixels_labels_and_order():
    data, digest = Toy(), subset_digest(Toy(), [0, 1, 2])
    assert digest == subset_digest(data, [0, 1, 2])
    assert digest != subset_digest(data, [1, 0, 2])
    data.label_array[1] += 1
    assert digest != subset_digest(data, [0, 1, 2])
    data.label_array[1] -= 1
    assert digest == subset_digest(data, [0, 1, 2])
    data._pictures[2, 0, 0, 0] ^= 1
    assert digest != subset_digest(data, [0, 1, 2])


@pytest.mark.parametrize("name", ["digits-m", "digits-m:", ":test", ""])
def test_a_split_is_part_of_the_name(name):
    with pytest.raises(PlanError, match="NAME:SPLIT"):
        parse_name(name)


def test_unknown_names_meet_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'digits-m'"):
        open_dataset("digits:test")
    with pytest.raises(PlanError, match="did you mean 'test'"):
        open_dataset("digits-m:tests")


@pytest.mark.parametrize("name", ["cifar10:test", "imagefolder:val", "imagenette:val"])
def test_data_that_cannot_be_read_are_no_disk_that_refuses(name):
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        open_dataset(name, "x" * 5000)


def test_opens_by_name():
    data = open_dataset("digits-m:test")
    assert (str(data), len(data)) == ("digits-m:test", 500)


def test_no_torch_before_pixels_are_asked_for():
    code = (
        "import sys, bench.datasets.base, bench.datasets.digits_m as d, bench.datasets.cifar, bench.datasets.folder, bench.weights; "
        "x = d.DigitsM('test'); bench.datasets.base.subset_digest(x, bench.datasets.base.subset(x, 3)); bench.weights.entries(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_check_disjoint_compares_pixels_not_names():
    scored, fitted = Toy(seed=1), Toy(seed=1, order=np.arange(20)[::-1], split="train")
    assert not set(scored.ids) & set(fitted.ids)
    with pytest.raises(PlanError, match=r"5 of the 5 images are scored too: train-.* is test-"):
        check_disjoint(fitted, range(5), scored, range(20), "fit")
    check_disjoint(fitted, range(5), scored, range(10), "fit")
    check_disjoint(Toy(seed=2), range(20), scored, range(20), "fit")


def test_check_classes_names_both_numbers():
    check_classes("net", 3, Toy())
    with pytest.raises(PlanError, match="net tells 10 classes apart, toy:test has 3") as caught:
        check_classes("net", 10, Toy())
    assert "classes.txt" in str(caught.value)


def test_what_weights_were_trained_on_says_where_classes_differ(monkeypatch):
    """Image folders of any classes share one name."""
    from types import SimpleNamespace

    from bench import weights
    from bench.evaluation.build import trained_on

    said = {"classes_sha256": classes_digest(("cat", "dog"))}
    entry = SimpleNamespace(dataset="imagefolder", more=said)
    monkeypatch.setattr(weights, "find", lambda name: entry)
    assert trained_on("mine", ("cat", "dog")) == "imagefolder"
    assert trained_on("mine", ("dog", "cat")) == "imagefolder (other classes)"
    entry.more = {}
    assert trained_on("mine", ("dog", "cat")) == "imagefolder"
    assert trained_on("random:0", ()) == trained_on("", ()) == ""


def test_rows_are_told_apart_without_pixels():
    one, same, other = Toy(), Toy(), Toy(seed=1)
    assert rows_digest(one) == rows_digest(same) != rows_digest(other)
    same.label_array[0] += 1
    assert rows_digest(one) != rows_digest(same)
    same.label_array[0] -= 1
    same.classes = ("b", "a", "c")
    assert rows_digest(one) != rows_digest(same)
