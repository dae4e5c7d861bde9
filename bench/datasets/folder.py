"""Folders of pictures, a folder for each class: ImageNet and anything laid out like it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.contracts.dataset import Array, Dataset
from bench.datasets.base import require_folder
from bench.errors import DataError, did_you_mean

SIDE = 224
CROP = 0.875
INTERPOLATION = "bilinear"
"""timm's evaluation transform with the data configuration of the original ResNets (`resnet50.tv_in1k`): the short side
becomes 256 = 224 / 0.875 pixels, bilinear with antialiasing, then the centre 224x224 is cut out. So did SkipNet's."""


class ImageFolder(Dataset):
    """Any pictures sorted into a folder for each class, resized to 256 and cropped to 224 pixels.

    Looked for in `data_root/SPLIT/CLASS/`, or, where there is no folder SPLIT, in `data_root/CLASS/`. Pictures are
    decoded when asked for; an id is the path below the split, without its extension.

    Args:
        split: "train", "val" or "test".
        data_root: required.

    Raises:
        DataError: the folder is not there or holds no picture; later, a picture that cannot be decoded, by its id.
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
        self._root = root / split if (root / split).is_dir() else root
        folders = sorted(
            path.name
            for path in self._root.iterdir()
            if path.is_dir() and not path.name.startswith(".")
        )
        self.classes, indices = self._classes(folders)
        self._files, labels = self._scan(indices)
        self.label_array = np.array(labels, dtype=np.int64)
        self.ids = _path_ids(self._files)

    def _classes(self, folders: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        """Class names in label order, and the label of each folder."""
        return tuple(folders), {name: index for index, name in enumerate(folders)}

    def _scan(self, indices: dict[str, int]) -> tuple[list[str], list[int]]:
        """Paths below the root, in torchvision's order, and their labels."""
        from torchvision.datasets.folder import IMG_EXTENSIONS, make_dataset

        hint = f"expected CLASS/PICTURE.jpg below it, or below a folder {self.split}/ in it"
        empty = DataError(f"{self.name}: no picture under {self._root}", hint=hint)
        if not indices:
            raise empty
        found = make_dataset(str(self._root), indices, extensions=IMG_EXTENSIONS, allow_empty=True)
        if not found:
            raise empty
        return [Path(path).relative_to(self._root).as_posix() for path, _ in found], [
            label for _, label in found
        ]

    @cached_property
    def _transform(self) -> Any:
        from timm.data import create_transform

        return create_transform(
            (3, SIDE, SIDE), use_prefetcher=True, interpolation=INTERPOLATION, crop_pct=CROP
        )

    def pixels(self, indices: Sequence[int]) -> Array:
        return np.stack([self._decode(index) for index in indices])

    def _decode(self, index: int) -> Array:
        from PIL import Image

        try:
            with Image.open(self._root / self._files[index]) as picture:
                return np.asarray(self._transform(picture.convert("RGB")))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = str(error).replace(str(self._root), "…")
            raise DataError(
                f"{self.name}: {self._files[index]}: not a picture that can be read ({reason})"
            ) from error


class ImageNet(ImageFolder):
    """ImageNet (ILSVRC 2012): 1000 classes, laid out as torchvision's ImageFolder, resized to 256 and cropped to 224 pixels.

    Folders are named by WordNet ids ("n01440764"); a label is the id's place among all 1000 in alphabetical order, also
    where only some of the folders are there.

    Args:
        split: "train" or "val".
        data_root: folder with `SPLIT/WNID/*.JPEG`, or with the WNID folders themselves.

    Raises:
        DataError: as `ImageFolder`, and for a folder that is no class of ImageNet.
    """

    splits: ClassVar[Sequence[str]] = ("train", "val")
    shown = "imagenet"
    credits = (
        "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.",
    )

    def _classes(self, folders: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        wnids = info.label_names()
        for name in folders:
            if name not in wnids:
                raise DataError(
                    f"imagenet: {self._root / name} is no class of ImageNet{did_you_mean(name, wnids)}"
                )
        place = {wnid: index for index, wnid in enumerate(wnids)}
        return tuple(text.split(",")[0] for text in info.label_descriptions()), {
            name: place[name] for name in folders
        }


def _path_ids(files: Sequence[str]) -> tuple[str, ...]:
    """Paths without extension; pictures that differ in nothing else keep theirs."""
    bare = [file.rpartition(".")[0] for file in files]
    counts: dict[str, int] = {}
    for name in bare:
        counts[name] = counts.get(name, 0) + 1
    return tuple(
        name if counts[name] == 1 else file for name, file in zip(bare, files, strict=True)
    )
