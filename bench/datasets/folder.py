"""Folders of pictures, a folder for each class: ImageNet and anything laid out like it."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.contracts.dataset import Array, Dataset
from bench.datasets.base import require_folder
from bench.datasets.classes import classes_file, common_classes, labels_in
from bench.datasets.files import (
    SPLIT_NAMES,
    UNREAD,
    check_leads_somewhere,
    check_one_owner,
    folders_in,
    in_text_order,
    is_split_like,
    not_unpacked,
    pictures_beside,
    printable,
    walk_pictures,
)
from bench.errors import DataError, did_you_mean
from bench.files.regular import check_regular
from bench.terminal import counted

SIDE = 224
CROP = 0.875
INTERPOLATION = "bilinear"
"""timm's evaluation transform with the data configuration of `resnet50.tv_in1k`.

The short side becomes 256 = 224 / 0.875 pixels, bilinear with antialiasing, then the center 224x224
is cut out. So did SkipNet's.
"""
EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's `ImageFolder`."""
FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP")
_HEAD = 2048
"""Bytes of a file that are compared before pixels are."""
_NARROW = 64
"""How many times longer than wide a picture may be; resized, its long side grows with that."""
_LEVELS = 3
"""How deep below the data root splits are looked for, to name the right folder."""
_FEW = 4
"""Folders of one level that are looked into for that, beyond the first level."""


class ImageFolder(Dataset):
    """Any pictures sorted into a folder for each class, resized to 256 and cropped to 224 pixels.

    Looked for in `data_root/SPLIT/CLASS/`, or in `data_root/CLASS/` where `data_root` is not
    divided into splits. What other programs leave (hidden files, resource forks, thumbnails,
    `__MACOSX`) is skipped at every level, and so is a folder that holds no picture in any split. An
    id is the path below the split, without its extension.

    Classes are the folders of all splits together, so a class that one split lacks moves no label.
    They are numbered in text order, as torchvision does ("1", "10", "2"); timm's loader counts "1",
    "2", "10", and a note says so where the two differ. A file `classes.txt` beside the splits, a
    class a line in label order, decides instead: the order of the network at hand, or all classes
    of a network of which the folders are a subset.

    Pictures are decoded when asked for, converted to RGB as `bench.codec.as_rgb` says. The
    orientation that EXIF states is not applied, as in the loaders of torchvision and timm.

    Args:
        split: "train", "val" or "test".
        data_root: required.

    Raises:
        DataError: the folder is not there, holds no picture, or holds other splits than this;
            later, a picture that cannot be decoded, by its id.
    """

    splits: ClassVar[Sequence[str]] = ("train", "val", "test")
    shown: ClassVar[str] = "imagefolder"

    def __init__(self, split: str, data_root: Path | None = None) -> None:
        self.name, self.split = self.shown, split
        self.image_shape = (3, SIDE, SIDE)
        if data_root is None:
            raise DataError(
                f"{self.name}: there is no download for it",
                hint="--data-root names the folder that the data lies in",
            )
        root = require_folder(data_root, self.name)
        try:
            self._root, siblings = self._find_split(root)
            for split_folder in {self._root, *siblings}:
                check_leads_somewhere(split_folder, self.name)
            self.classes, labels = self._number_classes(siblings)
            found = self._collect(labels)
        except OSError as error:
            raise DataError(f"{self.name}: {error}") from error
        if not found:
            raise DataError(
                f"{self.name}: no picture under {self._root}"
                f"{f' that is read; {self.note}' if self.note else ''}",
                hint=f"expected CLASS/PICTURE.jpg below it, or below a folder {split}/ in it"
                f"{not_unpacked(self._root)}",
            )
        self._files = [file for file, _ in found]
        self.label_array = np.array([label for _, label in found], dtype=np.int64)
        self.ids = path_ids([printable(file) for file in self._files], self.name)

    def pixels(self, indices: Sequence[int]) -> Array:
        return np.stack([self._decode(index) for index in indices])

    def heads(self) -> list[bytes]:
        """Of every file, what tells it from most others: a sha256 of its size and first bytes.

        Raises:
            DataError: one cannot be read.
        """
        found = []
        for file in self._files:
            try:
                check_regular(self._root / file)
                with open(self._root / file, "rb", buffering=0) as opened:
                    size = os.fstat(opened.fileno()).st_size
                    head = size.to_bytes(8, "big") + opened.read(_HEAD)
            except OSError as error:
                reason = error.strerror or error
                raise DataError(f"{self.name}: {printable(file)}: {reason}") from error
            found.append(hashlib.sha256(head).digest())
        return found

    def _find_split(self, root: Path) -> tuple[Path, list[Path]]:
        """(the folder of class folders, the folders of all splits beside it, itself included).

        Raises:
            DataError: other splits are there, and this one is not.
        """
        if self._holds_classes(root / self.split):
            return root / self.split, self._splits_in(root)
        others = [path.name for path in self._splits_in(root)]
        folders = folders_in(root)
        if not others and folders and all(map(is_split_like, folders)):
            others = folders
        if others:
            flat = (root / self.split).is_dir()
            raise DataError(
                f"{self.name}: {root} has no folder {self.split}/ with a folder for each class; "
                f"it has {', '.join(f'{name}/' for name in others)}",
                hint=(
                    f"move the pictures of {self.split}/ into a folder for each class"
                    if flat
                    else f"name one of them as the split ({', '.join(self.splits)}), or rename it"
                )
                + not_unpacked(root),
            )
        self._check_no_splits_below(root, root, _LEVELS)
        if root.name.lower() in SPLIT_NAMES and root.name != self.split:
            raise DataError(
                f"{self.name}: {root} is the folder of another split than {self.split!r}",
                hint="--data-root names the folder that holds all splits",
            )
        return root, self._splits_in(root.parent) if root.name == self.split else [root]

    def _check_no_splits_below(self, folder: Path, root: Path, levels: int) -> None:
        """Refuse a folder in which the splits lie further below.

        Raises:
            DataError: naming the folder that holds them.
        """
        folders = folders_in(folder)
        for name in folders:
            place = folder / name
            inside = [one for one in folders_in(place) if one.lower() in SPLIT_NAMES]
            if any(self._holds_classes(place / one) for one in inside):
                first = root / place.relative_to(root).parts[0]
                raise DataError(
                    f"{self.name}: {first.parent / printable(first.name)} is no class: "
                    f"{'it' if place == first else place} holds the splits "
                    f"{', '.join(f'{one}/' for one in inside)}",
                    hint=f"--data-root {place.parent / printable(place.name)}",
                )
        if levels > 1 and len(folders) <= _FEW:
            for name in folders:
                self._check_no_splits_below(folder / name, root, levels - 1)

    def _splits_in(self, root: Path) -> list[Path]:
        return [
            root / name
            for name in folders_in(root)
            if name.lower() in SPLIT_NAMES and self._holds_classes(root / name)
        ]

    def _holds_classes(self, folder: Path) -> bool:
        """Whether a folder holds other folders: a split, not a class."""
        return folder.is_dir() and bool(folders_in(folder))

    def _pictures(self, folder: Path) -> list[str]:
        return list(walk_pictures(folder, EXTENSIONS)) if folder.is_dir() else []

    def _collect(self, labels: Mapping[str, int]) -> list[tuple[str, int]]:
        """(path below the split, label) of every picture; what is left out becomes a note.

        Raises:
            DataError: one folder belongs to two classes.
        """
        found: list[tuple[str, int]] = []
        unread: Counter[str] = Counter()
        owners: dict[tuple[int, int], str] = {}
        for folder in in_text_order(labels):
            if not (self._root / folder).is_dir():
                continue
            walked: set[tuple[int, int]] = set()
            for file in walk_pictures(self._root / folder, (*EXTENSIONS, *UNREAD), walked):
                ending = os.path.splitext(file)[1].lower()
                if ending in EXTENSIONS:
                    found.append((f"{folder}/{file}", labels[folder]))
                else:
                    unread[ending] += 1
            check_one_owner(owners, walked, folder, self.name)
        loose = pictures_beside(self._root, (*EXTENSIONS, *UNREAD))
        self._remark(
            f"{counted(len(loose), 'picture')} beside the class folders left out" if loose else "",
            f"pictures of kinds that are not read are left out ({_counted(unread)})"
            if unread
            else "",
        )
        return found

    def _remark(self, *remarks: str) -> None:
        """Add to what is shown beside every number."""
        self.note = "; ".join(remark for remark in (self.note, *remarks) if remark)

    def _number_classes(self, siblings: Sequence[Path]) -> tuple[tuple[str, ...], dict[str, int]]:
        """(class names in label order, the label of each folder).

        Raises:
            DataError: `classes.txt` cannot be read, or does not name a folder; the folders of the
                splits do not agree.
        """
        splits = {path.name: self._class_folders(path) for path in siblings}
        own = self._root.name
        named, remark = classes_file(self._root, self.split, siblings, self.name)
        if named is not None:
            return named, labels_in(named, splits[own], self.name)
        folders = common_classes(splits, own, self.name)
        if folders != sorted(folders, key=_natural):
            self._remark("classes numbered in text order; timm's loader numbers them otherwise")
        self._remark(remark)
        classes = tuple(dict.fromkeys(map(printable, folders)))
        places = {shown: place for place, shown in enumerate(classes)}
        return classes, {name: places[printable(name)] for name in folders}

    def _class_folders(self, split: Path) -> list[str]:
        """The folders of a split that hold pictures of any kind."""
        kinds = (*EXTENSIONS, *UNREAD)
        return [
            name
            for name in folders_in(split)
            if next(walk_pictures(split / name, kinds), None) is not None
        ]

    @cached_property
    def _transform(self) -> Any:
        from timm.data import create_transform

        return create_transform(
            (3, SIDE, SIDE), use_prefetcher=True, interpolation=INTERPOLATION, crop_pct=CROP
        )

    def _decode(self, index: int) -> Array:
        from bench.codec import as_rgb, read_picture

        file = self._files[index]
        try:
            picture = as_rgb(read_picture(self._root / file, FORMATS, None))
            if max(picture.size) > _NARROW * min(picture.size):
                raise DataError(f"{picture.size[0]}x{picture.size[1]} pixels, too narrow to resize")
            return np.asarray(self._transform(picture))
        except (DataError, ValueError, MemoryError) as error:
            reason = str(getattr(error, "message", error)).replace(str(self._root), "…")
            raise DataError(f"{self.name}: {printable(file)}: {reason}") from error


class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012): 1000 classes, resized to 256 and cropped to 224 pixels.

    Laid out as torchvision's ImageFolder. Folders are named by WordNet ids ("n01440764"); a
    label is the id's place among all 1000 in alphabetical order, which is the order of
    torchvision's and timm's networks, also where only some of the folders are there.

    Args:
        split: "train" or "val".
        data_root: folder with `SPLIT/WNID/*.JPEG`, or with the WNID folders themselves.

    Raises:
        DataError: as `ImageFolder`, and for a folder of pictures that is no class of ImageNet.
    """

    splits: ClassVar[Sequence[str]] = ("train", "val")
    shown = "imagenet"
    credits = (
        "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.",
    )

    def _number_classes(self, siblings: Sequence[Path]) -> tuple[tuple[str, ...], dict[str, int]]:
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        place = {wnid: index for index, wnid in enumerate(info.label_names())}
        folders = folders_in(self._root)
        strangers = [name for name in folders if name not in place]
        for name in strangers:
            if len(strangers) == len(folders) or self._pictures(self._root / name):
                raise DataError(
                    f"imagenet: {self._root / printable(name)} is no class of ImageNet"
                    f"{did_you_mean(name, place)}",
                    hint="its folders are called by WordNet ids, as n01440764; 'imagefolder' reads "
                    "other names, with a classes.txt in label order",
                )
        return tuple(text.split(",")[0] for text in info.label_descriptions()), {
            name: place[name] for name in folders if name in place
        }


def _counted(endings: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {ending}" for ending, count in sorted(endings.items()))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts digits by their number, as timm's loader does."""
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def path_ids(files: Sequence[str], dataset: str) -> tuple[str, ...]:
    """Paths without extension; pictures that differ in nothing else keep theirs.

    Raises:
        DataError: two files have one name as text.
    """
    bare = [file.rpartition(".")[0] for file in files]
    counts = Counter(bare)
    ids = tuple(name if counts[name] == 1 else file for name, file in zip(bare, files, strict=True))
    if len(set(ids)) != len(ids):
        twice = next(name for name, count in Counter(ids).items() if count > 1)
        raise DataError(f"{dataset}: two pictures are called {twice}", hint="rename one of them")
    return ids
