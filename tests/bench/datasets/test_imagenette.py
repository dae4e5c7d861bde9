"""Imagenette: true validation pictures told apart by their names, in any of its layouts."""

import numpy as np
import pytest
from PIL import Image

from bench.datasets.base import open_dataset
from bench.datasets.imagenette import CLASSES, IMAGENET_LABELS, Imagenette
from bench.errors import DataError


def put(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((260, 230)).save(path, format="JPEG")


@pytest.fixture
def root(tmp_path):
    """An official folder: validation pictures of ImageNet lie in both of its own splits."""
    top = tmp_path / "imagenette2"
    put(top / "train" / "n01440764" / "n01440764_10.JPEG", 1)
    put(top / "train" / "n01440764" / "ILSVRC2012_val_00000293.JPEG", 2)
    put(top / "val" / "n01440764" / "n01440764_20.JPEG", 3)
    put(top / "val" / "n03888257" / "ILSVRC2012_val_00000007.JPEG", 4)
    put(top / "val" / "n02102040" / "n02102040_30.JPEG", 5)
    return tmp_path


def test_pictures_are_divided_by_what_imagenet_used_them_for(root):
    val, train = Imagenette("val", root), Imagenette("train", root)
    assert val.ids == (
        "n01440764/ILSVRC2012_val_00000293",
        "n03888257/ILSVRC2012_val_00000007",
    )
    assert val.labels.tolist() == [0, 9]
    assert train.ids == (
        "n01440764/n01440764_10",
        "n01440764/n01440764_20",
        "n02102040/n02102040_30",
    )
    assert train.labels.tolist() == [0, 0, 1]
    assert not set(val.ids) & set(train.ids)
    assert val.classes[9] == "parachute"
    assert val.images([0, 1]).shape == (2, 3, 224, 224)
    assert str(val) == "imagenette:val"


def test_the_folder_itself_is_found_too(root):
    assert Imagenette("val", root / "imagenette2").ids == Imagenette("val", root).ids
    assert open_dataset("imagenette:val", root).ids == Imagenette("val", root).ids


def test_labels_of_imagenet_are_those_of_timm():
    from timm.data import ImageNetInfo

    names = ImageNetInfo("imagenet-1k").label_names()
    assert [names[place] for place in IMAGENET_LABELS] == list(CLASSES)


def test_folders_that_are_no_imagenette(tmp_path, root):
    with pytest.raises(DataError, match="no download"):
        Imagenette("val")
    with pytest.raises(DataError, match="has no folder val/"):
        Imagenette("val", root / "imagenette2" / "train" / "n01440764")
    put(tmp_path / "other" / "val" / "n01440764" / "n01440764_1.JPEG")
    with pytest.raises(DataError, match="no picture of val"):
        Imagenette("val", tmp_path / "other")


def test_one_folder_under_two_labels_is_refused(root):
    top = root / "imagenette2" / "val"
    (top / "n02102040" / "more").symlink_to(top / "n03888257", target_is_directory=True)
    with pytest.raises(DataError, match="hold the same folder, by a link"):
        Imagenette("val", root)
