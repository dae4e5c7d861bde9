"""digits-m: the data set that comes along, for trying everything without a download."""

from __future__ import annotations

import hashlib
import io
import lzma
from functools import lru_cache
from pathlib import Path

import numpy as np

from bench.contracts.dataset import PixelDataset
from bench.errors import DataError

FILE = Path(__file__).with_name("digits_m.npz.xz")
SHA256 = "199a43222662ece1574049ade972f54b67bf0dddaf9a05841fba9520ad4d301f"


class DigitsM(PixelDataset):
    """Handwritten digits blended into photographs, 32x32 color, 10 classes.

    Shipped, no download; for trying, not for claims.

    5188 training images (four of each of 1297 digits) and 500 test images (one of each of 500 other
    digits), over different halves of two photographs. `digits` is the row of scikit-learn's table
    that each image shows, `opacity` (35-100 percent) how strongly it was drawn: what makes an image
    easy or hard. Drawn by `make_digits_m.py`.

    Args:
        split: "train" or "test".
        data_root: not used.

    Raises:
        DataError: the shipped file is missing or was altered.
    """

    sizes = {"train": 5188, "test": 500}  # noqa: RUF012
    image_shape = (3, 32, 32)
    note = "for trying, not for claims"
    credits = (
        "Digits: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, "
        "UCI Machine Learning Repository (CC BY 4.0), "
        "by way of scikit-learn.",
        "Photograph china.jpg: danielbuechele, "
        "https://www.flickr.com/photos/danielbuechele/6061409035/ (CC BY 2.0), "
        "cut into patches and drawn over.",
        "Photograph flower.jpg: vultilion, "
        "https://www.flickr.com/photos/vultilion/6056698931/ (CC BY 2.0), "
        "cut into patches and drawn over.",
    )
    flip_allowed = False

    def __init__(self, split: str, data_root: Path | None = None) -> None:
        arrays = _arrays(FILE, SHA256)
        self.name, self.split = "digits-m", split
        self.classes = tuple("0123456789")
        self.digits, self.opacity = arrays[f"{split}_digits"], arrays[f"{split}_opacity"]
        self.hold(arrays[f"{split}_images"], arrays[f"{split}_labels"])


@lru_cache(maxsize=1)
def _arrays(file: Path, digest: str) -> dict[str, np.ndarray]:
    """The arrays of the shipped file, after its digest was checked; unpacked once a process, and
    not to be written to.
    """
    try:
        packed = file.read_bytes()
    except OSError as error:
        raise DataError(
            f"digits-m: cannot read {file}: {error.strerror}", hint="install gatebench again"
        ) from error
    if hashlib.sha256(packed).hexdigest() != digest:
        raise DataError(
            f"digits-m: {file} was altered or is not whole (its sha256 is not {digest[:12]}…)",
            hint="install gatebench again",
        )
    with np.load(io.BytesIO(lzma.decompress(packed)), allow_pickle=False) as arrays:
        found = dict(arrays)
    for array in found.values():
        array.setflags(write=False)
    return found
