"""Imagenette: ten classes of ImageNet, with its true validation pictures told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.datasets.base import require_folder
from bench.datasets.files import check_leads_somewhere, check_one_owner, printable, walk_pictures
from bench.datasets.folder import EXTENSIONS, SIDE, ImageFolder, path_ids
from bench.errors import DataError

CLASSES = {
    "n01440764": "tench",
    "n02102040": "English springer",
    "n02979186": "cassette player",
    "n03000684": "chain saw",
    "n03028079": "church",
    "n03394916": "French horn",
    "n03417042": "garbage truck",
    "n03425413": "gas pump",
    "n03445777": "golf ball",
    "n03888257": "parachute",
}
"""Folder -> name, in label order."""
IMAGENET_LABELS = (0, 217, 482, 491, 497, 566, 569, 571, 574, 701)
"""The places of the ten classes among the 1000 of ImageNet."""
_FOLDERS = ("", "imagenette", "imagenette2", "imagenette2-320", "imagenette2-160")
_VALIDATION = "ILSVRC2012_val_"


class Imagenette(ImageFolder):
    """Imagenette: ten easily told classes of ImageNet, resized to 256 and cropped to 224 pixels.

    Its own division into train and val mixes ImageNet's. Here "val" holds the pictures that carry
    the name of an ImageNet validation picture, and "train" all others, whichever folder they lie
    in: a network trained on ImageNet has seen those of "train", and none of "val".

    Looked for in `data_root/{train,val}/WNID/`, or in a folder imagenette, imagenette2,
    imagenette2-320 or imagenette2-160 of `data_root`. An id is the WordNet id and the file's name.

    Args:
        split: "train" or "val".
        data_root: required.

    Raises:
        DataError: it is not there, or holds no picture of the split.

    Source: J. Howard, Imagenette, 2019; O. Russakovsky et al., ImageNet Large Scale Visual
    Recognition Challenge, IJCV 2015.
    """

    splits: ClassVar[Sequence[str]] = ("train", "val")
    shown: ClassVar[str] = "imagenette"
    credits = (
        "O. Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015.",
    )

    def __init__(self, split: str, data_root: Path | None = None) -> None:
        self.name, self.split = self.shown, split
        self.image_shape = (3, SIDE, SIDE)
        self.classes = tuple(CLASSES.values())
        if data_root is None:
            raise DataError(
                "imagenette: there is no download for it",
                hint="--data-root names the folder that holds its folders train/ and val/",
            )
        root = require_folder(data_root, self.name)
        folders = [root / name for name in _FOLDERS]
        found = [folder for folder in folders if self._holds_classes(folder / "val")]
        if not found:
            raise DataError(
                f"imagenette: {root} has no folder val/ with a folder for each class",
                hint=f"expected {root}/val/n01440764/*.JPEG, or an unpacked imagenette2 in it",
            )
        self._root = found[0]
        try:
            labeled = self._labeled()
        except OSError as error:
            raise DataError(f"imagenette: {error}") from error
        if not labeled:
            raise DataError(f"imagenette: no picture of {split} under {self._root}")
        names = sorted(labeled)
        self._files = [labeled[name][0] for name in names]
        self.label_array = np.array([labeled[name][1] for name in names], dtype=np.int64)
        self.ids = path_ids([printable(name) for name in names], self.name)

    def _labeled(self) -> dict[str, tuple[str, int]]:
        """WordNet id and name of every picture of the split -> (path below the folder, label).

        Raises:
            DataError: one folder belongs to two classes.
        """
        found: dict[str, tuple[str, int]] = {}
        owners: dict[tuple[int, int], str] = {}
        for part in ("train", "val"):
            if (self._root / part).is_dir():
                check_leads_somewhere(self._root / part, self.name)
            for label, wnid in enumerate(CLASSES):
                folder, walked = self._root / part / wnid, set[tuple[int, int]]()
                for file in walk_pictures(folder, EXTENSIONS, walked) if folder.is_dir() else ():
                    if file.rpartition("/")[2].startswith(_VALIDATION) == (self.split == "val"):
                        found[f"{wnid}/{file}"] = (f"{part}/{wnid}/{file}", label)
                check_one_owner(owners, walked, wnid, self.name)
        return found
