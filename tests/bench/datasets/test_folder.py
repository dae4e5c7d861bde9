import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets.base import subset, subset_digest
from bench.datasets.folder import ImageFolder, ImageNet
from bench.errors import DataError


def put(path, size=(300, 260), seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    smooth = Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    )
    smooth.resize(size, Image.Resampling.BICUBIC).save(path, **options)


@pytest.fixture
def root(tmp_path):
    put(tmp_path / "val" / "n01443537" / "b.JPEG", seed=1)
    put(tmp_path / "val" / "n01443537" / "a.jpg", seed=2)
    put(tmp_path / "val" / "n01440764" / "deep" / "c.png", seed=3)
    put(tmp_path / "val" / "n15075141" / "d.png", seed=4)
    return tmp_path


def test_ids_and_labels(root):
    data = ImageNet("val", root)
    assert data.ids == ("n01440764/deep/c", "n01443537/a", "n01443537/b", "n15075141/d")
    assert data.labels.tolist() == [0, 1, 1, 999]
    assert [data.classes[label] for label in (0, 1, 999)] == ["tench", "goldfish", "toilet tissue"]
    assert len(data.classes) == 1000
    plain = ImageFolder("val", root)
    assert plain.labels.tolist() == [0, 1, 1, 2]
    assert plain.classes == ("n01440764", "n01443537", "n15075141")
    assert (str(data), str(plain)) == ("imagenet:val", "imagefolder:val")


def test_split_may_be_left_out(root):
    below, above = ImageNet("val", root / "val"), ImageNet("val", root)
    assert below.ids == above.ids
    assert subset_digest(below, subset(below, 3)) == subset_digest(above, subset(above, 3))


def test_pixels_are_those_of_timms_transform(root):
    from timm.data import create_transform

    data = ImageNet("val", root)
    images = data.images([3, 0])
    assert images.shape == (2, 3, 224, 224)
    assert images.dtype == torch.uint8
    timm = create_transform(
        (3, 224, 224), interpolation="bilinear", crop_pct=0.875, mean=(0, 0, 0), std=(1, 1, 1)
    )
    with Image.open(root / "val" / "n15075141" / "d.png") as picture:
        assert torch.equal(images[0], (timm(picture) * 255).round().to(torch.uint8))


def test_a_picture_of_the_right_size_is_only_cropped(tmp_path):
    put(tmp_path / "one" / "a.png", (300, 256))
    with Image.open(tmp_path / "one" / "a.png") as picture:
        expected = np.asarray(picture)[16:240, 38:262]
    assert np.array_equal(ImageFolder("val", tmp_path).pixels([0])[0].transpose(1, 2, 0), expected)


def test_grey_pictures_become_rgb(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("L", (256, 256), 77).save(tmp_path / "one" / "grey.png")
    assert ImageFolder("val", tmp_path).images([0]).unique().tolist() == [77]


def test_files_that_differ_in_extension_only(tmp_path):
    put(tmp_path / "one" / "a.png")
    put(tmp_path / "one" / "a.jpg")
    put(tmp_path / "one" / "b.jpg")
    assert ImageFolder("val", tmp_path).ids == ("one/a.jpg", "one/a.png", "one/b")


def test_a_damaged_picture_is_named_without_its_root(root):
    (root / "val" / "n15075141" / "d.png").write_bytes(b"GIF89a nothing")
    with pytest.raises(DataError, match=r"n15075141/d\.png: not a picture") as caught:
        ImageNet("val", root).pixels([3])
    assert str(root) not in str(caught.value)


def test_what_is_not_there(root, tmp_path):
    with pytest.raises(DataError, match="--data-root"):
        ImageNet("val")
    with pytest.raises(DataError, match="is not there"):
        ImageNet("val", tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="no picture under"):
        ImageFolder("val", empty)
    (empty / "cats").mkdir()
    with pytest.raises(DataError, match="no picture under"):
        ImageFolder("val", empty)
    with pytest.raises(DataError, match="cats is no class of ImageNet"):
        ImageNet("val", empty)
