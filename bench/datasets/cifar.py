"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009), in every form they are passed around in."""

from __future__ import annotations

import sys
import urllib.error
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.contracts.dataset import Array, PixelDataset
from bench.datasets.base import require_folder
from bench.datasets.files import not_unpacked
from bench.datasets.pictures import Pictures, from_folders, from_parquet, parquet_files
from bench.errors import DataError
from bench.files.home import data_home
from bench.files.writing import make_folder

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR100_CLASSES = tuple(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house
    kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle
    mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew
    skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank
    telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf
    woman worm
    """.split()
)


class _Cifar(PixelDataset):
    """What the two have in common: 32x32 color pictures, looked for in three forms.

    In `data_root` (without one: in `GATEBENCH_HOME/data`, where `download` puts it) the first of
    these that is there counts:

    1. torchvision's own folder (`cifar-10-batches-py`), read only after its md5 sums were checked,
       for it is pickled;
    2. parquet files, `SPLIT.parquet` or all of `SPLIT-00000-of-00002.parquet` ..., at the top or in
       `data/`, `plain_text/` or `cifar10/`, with a column `image` or `img` of {bytes, path} and a
       column `label`;
    3. an image folder `SPLIT/CLASS/*.png`.

    Pictures that turn out to be JPEG are not the original's: the data set then calls itself
    `cifar10-jpeg`.
    """

    sizes: ClassVar = {"train": 50000, "test": 10000}
    image_shape = (3, 32, 32)
    credits = ("A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.",)
    base_name: ClassVar[str]
    batches: ClassVar[str]
    class_names: ClassVar[tuple[str, ...]]
    label_columns: ClassVar[tuple[str, ...]]

    def __init__(self, split: str, data_root: Path | None = None) -> None:
        self.split, self.classes = split, self.class_names
        found = self._find(data_root)
        self.name = f"{self.base_name}-jpeg" if found.jpeg else self.base_name
        whole = self.sizes[split]
        if len(found.labels) == whole:
            _check_balanced(found.labels, self.class_names, str(self))
        remarks = (
            "JPEG re-encoding, not the original pictures" if found.jpeg else "",
            f"{len(found.labels):,} of the {whole:,} pictures of the split"
            if len(found.labels) < whole
            else "",
        )
        self.note = "; ".join(remark for remark in remarks if remark)
        self.hold(found.pixels, found.labels)

    def _find(self, data_root: Path | None) -> Pictures:
        root = data_root or data_home()
        if data_root is None and not root.is_dir():
            raise DataError(
                f"{self.base_name}: it has not been downloaded", hint=self._how_to_get_it()
            )
        require_folder(root, self.base_name)
        for folder in (root, root.parent):
            if (folder / self.batches).is_dir() and (folder == root or root.name == self.batches):
                return self._from_torchvision(folder)
        folders = ("", "data", "plain_text", self.base_name)
        files = parquet_files(root, self.split, folders, self.base_name)
        if files:
            return from_parquet(
                files,
                self.base_name,
                self.class_names,
                self.label_columns,
                side=32,
                most=self.sizes[self.split],
            )
        if (root / self.split).is_dir():
            return from_folders(root / self.split, self.base_name, self.class_names, side=32)
        raise DataError(
            f"{self.base_name}: {root} holds neither {self.batches}/, nor {self.split}*.parquet, "
            f"nor a folder {self.split}/",
            hint=self._how_to_get_it() + not_unpacked(root),
        )

    def _how_to_get_it(self) -> str:
        return (
            "--data-root names the folder it lies in, or fetch it with: "
            f"python -m bench.datasets.cifar {self.base_name}"
        )

    def _from_torchvision(self, root: Path) -> Pictures:
        """The pickled batches; torchvision unpickles nothing before their md5 sums are right."""
        try:
            with warnings.catch_warnings():  # the pickles are from 2009 and numpy says so
                warnings.simplefilter("ignore")
                raw = self._torchvision()(str(root), train=self.split == "train", download=False)
        except RuntimeError as error:
            raise DataError(
                f"{self.base_name}: {root / self.batches} is incomplete or was altered "
                "(its md5 sums are not the published ones)",
                hint=self._how_to_get_it(),
            ) from error
        return Pictures(
            np.asarray(raw.data, dtype=np.uint8),
            np.asarray(raw.targets, dtype=np.int64),
            jpeg=False,
        )

    @classmethod
    def _torchvision(cls) -> Any:
        from torchvision import datasets

        return datasets.CIFAR10 if cls.base_name == "cifar10" else datasets.CIFAR100

    @classmethod
    def download(cls, folder: Path | None = None) -> Path:
        """Fetch the original archive with torchvision (progress on the terminal) and unpack it.

        Args:
            folder: where to; `GATEBENCH_HOME/data` by default.

        Raises:
            DataError: no connection, or what came is not the published archive.
            DiskError: the folder cannot be made.
        """
        root = folder or data_home()
        make_folder(root, elsewhere="GATEBENCH_HOME names another folder")
        try:
            cls._torchvision()(str(root), train=True, download=True)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise DataError(
                f"{cls.base_name}: the download failed: {error}",
                hint=f"fetch {cls._torchvision().url} by other means, unpack it into {root}, "
                "and run the same again",
            ) from error
        return root / cls.batches


def _check_balanced(labels: Array, classes: Sequence[str], name: str) -> None:
    """Refuse labels of a whole split that are not the published ones, which divide it evenly.

    So coarse labels are told from fine ones, and another data set of as many pictures from this.

    Raises:
        DataError: naming a class that is there more or less often.
    """
    even, rest = divmod(len(labels), len(classes))
    counts = np.bincount(labels, minlength=len(classes))
    wrong = np.flatnonzero(counts != even)
    if not rest and len(wrong):
        label = int(wrong[0])
        raise DataError(
            f"{name}: the labels are not those of this data set: {counts[label]:,} pictures of "
            f"label {label} ({classes[label]}), expected {even:,}",
            hint="other labels, such as the coarse ones of cifar100, or another data set",
        )


class CIFAR10(_Cifar):
    """CIFAR-10: photographs of ten kinds of things, 32x32 color.

    50,000 pictures for training and 10,000 for testing.

    Args:
        split: "train" or "test".
        data_root: folder with torchvision's `cifar-10-batches-py`, parquet files, or
            `SPLIT/CLASS/*.png`.

    Raises:
        DataError: it is not there, is damaged, or is something else; names file and row.
    """

    sizes: ClassVar = {"train": 50000, "test": 10000}
    image_shape = (3, 32, 32)
    base_name = "cifar10"
    batches = "cifar-10-batches-py"
    class_names = CIFAR10_CLASSES
    label_columns = ("label",)


class CIFAR100(_Cifar):
    """CIFAR-100: photographs of a hundred kinds of things, 32x32 color.

    50,000 pictures for training and 10,000 for testing.

    Args:
        split: "train" or "test".
        data_root: folder with torchvision's `cifar-100-python`, parquet files, or
            `SPLIT/CLASS/*.png`.

    Raises:
        DataError: it is not there, is damaged, or is something else; names file and row.
    """

    sizes: ClassVar = {"train": 50000, "test": 10000}
    image_shape = (3, 32, 32)
    base_name = "cifar100"
    batches = "cifar-100-python"
    class_names = CIFAR100_CLASSES
    label_columns = ("fine_label", "label")


def _main(arguments: list[str]) -> int:
    kinds: dict[str, type[_Cifar]] = {"cifar10": CIFAR10, "cifar100": CIFAR100}
    if not arguments or arguments[0] not in kinds or len(arguments) > 2:
        print(f"usage: python -m bench.datasets.cifar {'|'.join(kinds)} [FOLDER]", file=sys.stderr)
        return 2
    try:
        print(kinds[arguments[0]].download(Path(arguments[1]) if arguments[1:] else None))
    except DataError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
