import numpy as np
import pytest

from bench.contracts.dataset import PixelDataset
from bench.datasets import base
from bench.errors import DataError, PlanError
from bench.training.inputs import images_digest, open_splits


class Some(PixelDataset):
    splits = ("train", "val", "test")
    classes = ("a", "b")

    def __init__(self, split, pictures):
        self.name, self.split = "some", split
        self.hold(pictures, np.zeros(len(pictures), dtype=np.int64))


def pictures(seed, count=200):
    return np.random.default_rng(seed).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8)


@pytest.fixture
def there(monkeypatch):
    held = {}

    def opened(name, root=None):
        split = name.partition(":")[2]
        if split not in held:
            raise DataError(f"no {split}")
        return Some(split, held[split])

    monkeypatch.setattr(base, "open_dataset", opened)
    return held


def test_the_first_split_that_is_there_is_measured_on(there):
    there |= {"train": pictures(1), "val": pictures(2)}
    assert [str(data) for data in open_splits("some", None)] == ["some:train", "some:val"]
    there["test"] = pictures(3)
    assert str(open_splits("some", None)[1]) == "some:test"
    del there["test"], there["val"]
    with pytest.raises(DataError, match="no test"):
        open_splits("some", None)


def test_training_on_what_is_measured_is_refused_by_content(there):
    there |= {"train": pictures(1), "test": pictures(1)[::-1]}
    with pytest.raises(PlanError, match="200 of the 200 images are scored too"):
        open_splits("some", None)
    there["test"] = np.concatenate([pictures(1)[:2], pictures(2, 198)])
    open_splits("some", None)  # published data sets repeat a handful
    there["test"] = np.concatenate([pictures(1)[:3], pictures(2, 197)])
    with pytest.raises(PlanError, match="3 of the 200"):
        open_splits("some", None)


def test_other_classes_are_refused(there, monkeypatch):
    there |= {"train": pictures(1), "test": pictures(2)}
    real = base.open_dataset

    def opened(name, root=None):
        data = real(name, root)
        if data.split == "test":
            data.classes = ("b", "a")
        return data

    monkeypatch.setattr(base, "open_dataset", opened)
    with pytest.raises(DataError, match="have other classes, or in another order"):
        open_splits("some", None)


def test_an_image_folder_without_splits_cannot_be_trained_on(tmp_path):
    from PIL import Image

    (tmp_path / "cat").mkdir()
    for seed in (1, 2):
        Image.fromarray(pictures(seed, 1)[0]).resize((256, 256)).save(tmp_path / f"cat/{seed}.png")
    with pytest.raises(PlanError, match="2 of the 2 images are scored too"):
        open_splits("imagefolder", tmp_path)


def test_edited_pictures_are_other_ones(tmp_path):
    """The ids of an image folder are names, which stay when a picture is edited."""
    from PIL import Image

    def put(name, seed):
        path = tmp_path / "train" / "cat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pictures(seed, 1)[0]).save(path)
        return images_digest(base.open_dataset("imagefolder:train", tmp_path))

    put("1.png", 1)
    before = put("2.png", 2)
    assert put("2.png", 3) != before
    assert put("2.png", 2) == before
    assert images_digest(Some("train", pictures(1))) == base.rows_digest(Some("train", pictures(1)))


def test_pictures_under_other_names_in_both_splits_are_found(tmp_path):
    from PIL import Image

    for split, seeds in (("train", (1, 2, 3)), ("val", (4, 2))):
        for seed in seeds:
            path = tmp_path / split / "cat" / f"{split}-{seed}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pictures(seed, 1)[0]).save(path)
    with pytest.raises(PlanError, match="cat/train-2 is cat/val-2 of imagefolder:val"):
        open_splits("imagefolder", tmp_path)
    (tmp_path / "val" / "cat" / "val-2.png").unlink()
    assert [len(one) for one in open_splits("imagefolder", tmp_path)] == [3, 1]
