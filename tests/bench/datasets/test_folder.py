import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bench.datasets.base import subset, subset_digest
from bench.datasets.folder import ImageFolder, ImageNet
from bench.errors import DataError

CAFE = unicodedata.normalize("NFC", "café")
APART = unicodedata.normalize("NFD", "café")


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


@pytest.mark.parametrize("there", ["train", "valid", "Test"])
def test_a_missing_split_folder_does_not_turn_splits_into_classes(tmp_path, there):
    put(tmp_path / "training" / "cat" / "a.png")
    put(tmp_path / there / "cat" / "a.png")
    with pytest.raises(DataError, match="has no folder val/ with a folder for each class") as found:
        ImageFolder("val", tmp_path)
    assert f"{there}/" in str(found.value)
    with pytest.raises(DataError, match=f"{there} is the folder of another split than 'val'"):
        ImageFolder("val", tmp_path / there)


def test_splits_without_class_folders_are_no_classes(tmp_path):
    for split in ("train", "val"):
        put(tmp_path / split / "a.png")
    with pytest.raises(DataError, match="has no folder val/ with a folder for each class"):
        ImageFolder("val", tmp_path)


def test_a_class_may_be_called_like_a_split(tmp_path):
    for name in ("plane", "train", "truck"):
        put(tmp_path / name / "a.png")
    assert ImageFolder("val", tmp_path).classes == ("plane", "train", "truck")
    assert ImageFolder("train", tmp_path).classes == ("plane", "train", "truck")


def test_a_class_missing_from_one_split_shifts_no_label(tmp_path):
    for name in ("ant", "bee", "cat"):
        put(tmp_path / "train" / name / "a.png")
    put(tmp_path / "val" / "cat" / "a.png")
    (tmp_path / "train" / "checkpoints").mkdir()
    for root in (tmp_path, tmp_path / "val"):
        data = ImageFolder("val", root)
        assert data.classes == ("ant", "bee", "cat")
        assert data.labels.tolist() == [2]
    assert ImageFolder("train", tmp_path).classes == data.classes


def test_junk_is_skipped_at_every_level(tmp_path):
    put(tmp_path / "val" / "cat" / "a.png")
    for junk in (
        "__MACOSX/val/cat/._a.png", "val/__MACOSX/cat/._a.png", "val/.ipynb_checkpoints/a.png",
        "val/cat/._a.png", "val/cat/.ipynb_checkpoints/a-checkpoint.png", "val/cat/@eaDir/a.png",
        "val/.DS_Store", "val/cat/Thumbs.db",
    ):  # fmt: skip
        path = tmp_path / junk
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\x00\x05\x16\x07 a resource fork")
    data = ImageFolder("val", tmp_path)
    assert (data.classes, data.ids) == (("cat",), ("cat/a",))
    assert data.images([0]).shape == (1, 3, 224, 224)


def test_names_in_any_encoding(tmp_path):
    folder = os.fsencode(tmp_path / "val") + b"/caf\xe9"
    put(Path(os.fsdecode(folder)) / os.fsdecode(b"\xff.png"))
    put(tmp_path / "val" / "thé" / "a.png")
    data = ImageFolder("val", tmp_path)
    assert data.ids == (r"thé/a", r"caf\xe9/\xff") or data.ids == (r"caf\xe9/\xff", r"thé/a")
    assert set(data.classes) == {r"caf\xe9", "thé"}
    assert len(subset_digest(data, subset(data, 2))) == 64
    put(tmp_path / "val" / r"caf\xe9" / r"\xff.png")
    with pytest.raises(DataError, match="differ in case, blanks or Unicode form alone"):
        ImageFolder("val", tmp_path)


def test_class_order_is_torchvisions_and_a_file_decides_otherwise(tmp_path):
    for name in ("1", "2", "10"):
        put(tmp_path / "val" / name / "a.png")
    data = ImageFolder("val", tmp_path)
    assert data.classes == ("1", "10", "2")
    assert "timm's loader numbers them otherwise" in data.note
    from timm.data.readers.reader_image_folder import find_images_and_targets

    timms = find_images_and_targets(str(tmp_path / "val"))[1]
    (tmp_path / "classes.txt").write_text("\ufeff1\n2\n3\n10\n\n", encoding="utf-8")
    data = ImageFolder("val", tmp_path)
    assert data.classes == ("1", "2", "3", "10"), "a class of the network that has no picture here"
    assert data.labels.tolist() == [0, 3, 1]
    assert sorted(timms, key=timms.get) == ["1", "2", "10"]
    assert data.note == ""
    (tmp_path / "classes.txt").write_text("1\n2\n11\n")
    with pytest.raises(DataError, match=r"classes\.txt does not name the class '10'; did you mean"):
        ImageFolder("val", tmp_path)
    (tmp_path / "classes.txt").write_text("1\n2\n10\n1\n")
    with pytest.raises(DataError, match=r"names a class twice"):
        ImageFolder("val", tmp_path)
    (tmp_path / "classes.txt").write_text("# in label order\n1\n2\n10\n")
    with pytest.raises(DataError, match=r"'# in label order' looks like a comment, and every line"):
        ImageFolder("val", tmp_path)
    put(tmp_path / "val" / "# in label order" / "x.png")
    assert ImageFolder("val", tmp_path).classes == ("# in label order", "1", "2", "10")


@pytest.mark.parametrize("first", ["classes", "Class name", "label:", "WNID", "synset_id", "names"])
def test_a_heading_in_classes_txt_is_no_class(tmp_path, first):
    for name in ("cat", "dog"):
        put(tmp_path / "val" / name / "a.png")
    (tmp_path / "classes.txt").write_text(f"{first}\ncat\ndog\n")
    with pytest.raises(DataError, match=rf"'{first}' looks like a heading, and every line is a"):
        ImageFolder("val", tmp_path)
    (tmp_path / "classes.txt").write_text(f"cat\n{first}\ndog\n")
    assert ImageFolder("val", tmp_path).labels.tolist() == [0, 2]
    put(tmp_path / "val" / first / "x.png")
    (tmp_path / "classes.txt").write_text(f"{first}\ncat\ndog\n")
    assert ImageFolder("val", tmp_path).classes == (first, "cat", "dog")


def test_an_empty_line_in_classes_txt_moves_no_label(tmp_path):
    for name in ("cat", "dog"):
        put(tmp_path / "val" / name / "a.png")
    for text, line in (("cat\n\ndog\n", 2), ("\ncat\ndog\n", 1)):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(DataError, match=rf"line {line} is empty, and every line is a class"):
            ImageFolder("val", tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n \n\n")
    assert ImageFolder("val", tmp_path).labels.tolist() == [0, 1]


def test_other_codecs_are_not_asked(tmp_path):
    put(tmp_path / "one" / "a.png")
    (tmp_path / "one" / "b.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    data = ImageFolder("val", tmp_path)
    with pytest.raises(DataError, match=r"one/b\.jpg: not a picture that can be read"):
        data.pixels([1])
    Image.new("F", (300, 300)).save(tmp_path / "one" / "c.tif")
    with pytest.raises(DataError, match=r"one/c\.tif: a picture of mode F"):
        ImageFolder("val", tmp_path).pixels([2])


def test_sixteen_bit_pictures_keep_their_gray(tmp_path):
    (tmp_path / "one").mkdir()
    Image.fromarray(np.full((256, 256), 77 * 257, np.uint16)).save(tmp_path / "one" / "a.png")
    assert ImageFolder("val", tmp_path).images([0]).unique().tolist() == [77]


def test_imagenet_skips_folders_without_pictures_and_refuses_others(root):
    (root / "val" / "checkpoints").mkdir()
    assert len(ImageNet("val", root)) == 4
    put(root / "val" / "cats" / "a.png")
    with pytest.raises(DataError, match="cats is no class of ImageNet"):
        ImageNet("val", root)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_a_device_among_the_pictures_is_named_and_does_not_block(tmp_path):
    put(tmp_path / "val" / "a" / "1.png")
    os.mkfifo(tmp_path / "val" / "a" / "pipe.png")
    (tmp_path / "val" / "b").mkdir()
    (tmp_path / "val" / "b" / "endless.png").symlink_to("/dev/zero")
    data = ImageFolder("val", tmp_path)
    for place, name in enumerate(data.ids):
        if name != "a/1":
            with pytest.raises(DataError, match=f"imagefolder: {name}.png: no regular file"):
                data.pixels([place])
    with pytest.raises(DataError, match=r"imagefolder: a/pipe.png: it is no regular file"):
        data.heads()  # what training compares


@pytest.mark.parametrize("split", ["val", "train"])
def test_a_class_folder_that_is_a_link_to_nothing_moves_no_label(tmp_path, split):
    for name in "bc":
        put(tmp_path / "val" / name / "1.png")
        put(tmp_path / "train" / name / "1.png")
    (tmp_path / "val" / "gone.png").symlink_to(tmp_path / "gone")
    assert ImageFolder("val", tmp_path).classes == ("b", "c")
    (tmp_path / split / "a").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=f"{split}/a is a link to nothing; it may be a class"):
        ImageFolder("val", tmp_path)


def test_a_picture_with_much_behind_it_is_refused_before_it_is_read(tmp_path):
    put(tmp_path / "val" / "a" / "1.jpg")
    with open(tmp_path / "val" / "a" / "1.jpg", "r+b") as file:
        file.truncate(2**40)  # a hole
    data = ImageFolder("val", tmp_path)
    with pytest.raises(DataError, match=r"a/1.jpg: 1,099,511,627,776 bytes, more than the "):
        data.pixels([0])


def test_a_link_back_to_the_split_puts_no_picture_into_two_classes(tmp_path):
    put(tmp_path / "val" / "a" / "1.png", seed=1)
    put(tmp_path / "val" / "b" / "1.png", seed=2)
    for name, goal in (("up", ".."), ("far", "../.."), ("here", "."), ("whole", str(tmp_path))):
        (tmp_path / "val" / "a" / name).symlink_to(goal)
    put(tmp_path / "elsewhere" / "2.png", seed=3)
    (tmp_path / "val" / "a" / "more").symlink_to(tmp_path / "elsewhere")
    assert ImageFolder("val", tmp_path).ids == ("a/1", "a/more/2", "b/1")


def test_a_folder_around_the_splits_is_no_class(tmp_path):
    for split in ("train", "val"):
        put(tmp_path / "data" / split / "a" / "1.png")
        put(tmp_path / "data" / split / "b" / "1.png")
    with pytest.raises(DataError, match="data is no class: it holds the splits train/, val/") as no:
        ImageFolder("val", tmp_path)
    assert no.value.hint == f"--data-root {tmp_path / 'data'}"


def tiny(path):
    """A picture for which its name counts, not its pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, "PNG")


def layout(root, *files):
    for file in files:
        tiny(root / file)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param("train/Cat/a.png", "val/cat/a.png", id="case"),
        pytest.param("train/cat /a.png", "val/cat/a.png", id="blank"),
        pytest.param(f"val/{CAFE}/a.png", f"val/{APART}/b.png", id="unicode-in-one-split"),
    ],
)
def test_one_class_under_two_names_is_refused(tmp_path, one, other):
    layout(tmp_path, one, other, "train/dog/a.png", "val/dog/a.png")
    with pytest.raises(DataError, match="differ in case, blanks or Unicode form alone"):
        ImageFolder("val", tmp_path)


def test_one_name_twice_in_a_split_is_refused_whatever_other_splits_have(tmp_path):
    layout(tmp_path, f"train/{CAFE}/a.png", f"train/{APART}/b.png", f"val/{CAFE}/c.png")
    with pytest.raises(DataError, match="differ in case, blanks or Unicode form alone"):
        ImageFolder("train", tmp_path)


def test_letters_of_two_cases_are_two_classes(tmp_path):
    layout(tmp_path, "train/A/1.png", "train/a/1.png", "val/a/1.png")
    data = ImageFolder("val", tmp_path)
    assert (data.classes, data.labels.tolist()) == (("A", "a"), [1])


def test_unicode_forms_of_one_name_are_one_class_and_one_id(tmp_path):
    layout(tmp_path, f"train/{CAFE}/{CAFE}.png", f"val/{APART}/{APART}.png")
    layout(tmp_path, "train/zoo/a.png", "val/zoo/a.png", "train/cab/a.png")
    train, val = ImageFolder("train", tmp_path), ImageFolder("val", tmp_path)
    assert train.classes == val.classes == ("cab", CAFE, "zoo")
    assert val.labels.tolist() == [1, 2]
    assert val.ids == (f"{CAFE}/{CAFE}", "zoo/a")
    (tmp_path / "classes.txt").write_text(f"zoo\n{CAFE}\n", encoding="utf-8")
    assert ImageFolder("val", tmp_path).labels.tolist() == [1, 0]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_of_one_folder_is_not_sorted_into_classes(tmp_path, split):
    """As Tiny ImageNet and YOLO come."""
    layout(tmp_path, "train/a/images/1.png", "train/b/images/1.png", f"{split}/images/1.png")
    with pytest.raises(DataError, match=f"{split}/ is not sorted into classes: it holds images/"):
        ImageFolder(split, tmp_path)
    assert ImageFolder("train", tmp_path).classes == ("a", "b")


def test_a_split_that_shares_no_class_with_another(tmp_path):
    """As test sets of competitions come: one folder, and no labels."""
    layout(tmp_path, "train/a/1.png", "train/b/1.png", "val/b/1.png", "test/unknown/1.png")
    with pytest.raises(DataError, match=r"test/ has none of the classes of train/: it holds unk"):
        ImageFolder("test", tmp_path)
    data = ImageFolder("val", tmp_path)
    assert (data.classes, data.labels.tolist()) == (("a", "b"), [1])


@pytest.mark.parametrize(
    ("files", "told", "hint"),
    [
        pytest.param(
            ["train/cat.0.png", "test1/1.png"],
            "no folder train/ with a folder for each class",
            "move the pictures of train/ into a folder for each class",
            id="flat-beside-test1",
        ),
        pytest.param(
            ["train2017/1.png", "val2017/1.png"],
            "it has train2017/, val2017/",
            "name one of them as the split",
            id="coco",
        ),
        pytest.param(
            ["a/b/c/train/x/1.png"],
            "a is no class: .*/a/b/c holds the splits train/",
            "--data-root .*/a/b/c",
            id="splits-further-below",
        ),
        pytest.param(
            ["1.png"], "no picture under .* that is read; 1 picture beside", "CLASS", id="loose"
        ),
    ],
)
def test_layouts_that_are_no_classes(tmp_path, files, told, hint):
    layout(tmp_path, *files)
    with pytest.raises(DataError, match=told) as caught:
        ImageFolder("train", tmp_path)
    assert re.search(hint, caught.value.hint)


def test_flat_validation_pictures_of_imagenet(tmp_path):
    layout(tmp_path, "train/n01440764/a.JPEG", "val/ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="no folder val/") as caught:
        ImageNet("val", tmp_path)
    assert caught.value.hint == "move the pictures of val/ into a folder for each class"
    layout(tmp_path, "val/tench/a.JPEG")
    with pytest.raises(DataError, match="tench is no class of ImageNet") as caught:
        ImageNet("val", tmp_path)
    assert "WordNet ids" in caught.value.hint


def test_pictures_that_are_left_out_are_told(tmp_path):
    layout(tmp_path, "val/cat/a.png", "val/cat/b.gif", "val/bee/c.GIF", "val/d.png")
    data = ImageFolder("val", tmp_path)
    assert (data.classes, data.ids) == (("bee", "cat"), ("cat/a",)), "bee keeps its label"
    assert data.note == (
        "1 picture beside the class folders left out; "
        "pictures of kinds that are not read are left out (2 .gif)"
    )


@pytest.mark.parametrize("link", ["val/kitty", "val/dog/more"], ids=["class", "inside"])
def test_one_folder_under_two_labels_is_refused(tmp_path, link):
    layout(tmp_path, "val/cat/a.png", "val/dog/b.png")
    (tmp_path / link).symlink_to(tmp_path / "val" / "cat", target_is_directory=True)
    with pytest.raises(DataError, match="hold the same folder, by a link"):
        ImageFolder("val", tmp_path)


def test_a_folder_that_cannot_be_read_is_not_skipped(tmp_path, monkeypatch):
    layout(tmp_path, "val/cat/a.png", "val/cat/deep/b.png")
    scan = os.scandir

    def refusing(path="."):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(DataError, match=r"Permission denied.*deep"):
        ImageFolder("val", tmp_path)


def test_classes_txt_in_any_case_decides(tmp_path):
    layout(tmp_path, "val/cat/a.png", "val/dog/a.png")
    (tmp_path / "Classes.TXT").write_text("dog\ncat\n")
    assert ImageFolder("val", tmp_path).classes == ("dog", "cat")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match=r"Classes\.TXT, classes\.txt beside each other"):
        ImageFolder("val", tmp_path)


def test_classes_txt_of_one_split_would_number_it_otherwise(tmp_path):
    layout(tmp_path, "train/cat/a.png", "train/dog/a.png", "val/cat/a.png", "val/dog/a.png")
    (tmp_path / "val" / "classes.txt").write_text("dog\ncat\n")
    with pytest.raises(DataError, match=r"lies in val/, and so decides for this split alone"):
        ImageFolder("val", tmp_path)


def test_other_lists_of_classes_are_told(tmp_path):
    layout(tmp_path, "val/cat/a.png", "val/dog/a.png")
    (tmp_path / "class_index.json").write_text('{"0": ["n1", "dog"], "1": ["n2", "cat"]}')
    assert (
        ImageFolder("val", tmp_path).note == "class_index.json is not read (classes.txt would be)"
    )


def test_a_picture_that_would_grow_without_bound_is_refused(tmp_path):
    (tmp_path / "one").mkdir()
    Image.new("L", (9000, 1)).save(tmp_path / "one" / "line.png")
    with pytest.raises(DataError, match=r"one/line\.png: 9000x1 pixels, too narrow"):
        ImageFolder("val", tmp_path).pixels([0])


def test_what_is_not_unpacked_is_named(tmp_path):
    from bench.datasets.cifar import CIFAR10

    for number in range(3):
        (tmp_path / f"imagenet-validation-{number}.tar").write_bytes(b"x")
    told = "; imagenet-validation-0.tar and 2 more is not read as it is: unpack it"
    for kind, split in ((ImageFolder, "val"), (CIFAR10, "test")):
        with pytest.raises(DataError) as caught:
            kind(split, tmp_path)
        assert caught.value.hint.endswith(told)
