"""Pictures as bytes and back: PNG without loss, JPEG with it, and no other codec.

Pillow chooses a codec by what the bytes look like, and some of its codecs start other programs (EPS
runs Ghostscript). So every picture that gatebench opens is opened here: the formats that are meant
are named, and the size is held against what is expected before a pixel is decoded.
"""

from __future__ import annotations

import contextlib
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from bench.errors import DataError
from bench.files.complete import check_jpeg, check_png, check_tiff

if TYPE_CHECKING:
    from torch import Tensor

JPEG_QUALITY = 90
SAVED_FORMATS = ("PNG", "JPEG")
"""What saved images are encoded with."""
MAX_PIXELS = 2**26
"""The most pixels that a picture may have; the largest of ImageNet has 61 million."""
_BYTES_A_PIXEL = 8
"""Four channels of 16 bits, not packed."""
_BESIDE_PIXELS = 2**26
"""Bytes that a file may have beside its pixels: thumbnails, profiles, notes."""

_CONVERTED = ("1", "L", "LA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_PALETTES = ("P", "PA")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_WHOLE_NUMBERS = ("PNG", "PPM")
"""Formats whose mode "I" holds 16-bit values; elsewhere it may hold 32 bits."""
_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANAR, _COLORS, _SAMPLE_FORMAT = 258, 259, 262, 284, 320, 339
"""Tags of TIFF."""
_CHECKS = {"PNG": check_png, "JPEG": check_jpeg, "MPO": check_jpeg, "TIFF": check_tiff}
"""What looks whether a format's data is complete."""

_TOLD: ContextVar[Callable[[Tensor, Tensor], None] | None] = ContextVar("told", default=None)


def png(image: Tensor) -> bytes:
    """PNG bytes of an image.

    Args:
        image: (C, H, W) uint8, C 1 or 3.
    """
    buffer = io.BytesIO()
    _picture(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def size_of(shape: Sequence[int]) -> tuple[int, int]:
    """(width, height) of the pictures of images of (C, H, W)."""
    _, height, width = shape
    return width, height


def decoded(pictures: Sequence[bytes], size: tuple[int, int]) -> Tensor:
    """Images from PNG or JPEG bytes.

    Args:
        pictures: at least one.
        size: (width, height) that all must have.

    Returns:
        (N, C, H, W) uint8; C is 1 where all pictures are gray.

    Raises:
        DataError: one is neither PNG nor JPEG, is damaged, is neither 8-bit gray nor 8-bit RGB, or
            of another size, or other channels than the first.
    """
    import torch

    found: list[Tensor] = []
    for data in pictures:
        picture = read_picture(data, SAVED_FORMATS, size)
        if picture.mode not in ("L", "RGB"):
            raise DataError(f"a picture of mode {picture.mode}, expected 8-bit gray or RGB")
        found.append(_pixels(picture))
        if found[-1].shape != found[0].shape:
            raise DataError("gray and RGB pictures together")
    return torch.stack(found)


def through_jpeg(saved: Tensor, quality: int = JPEG_QUALITY) -> Tensor:
    """Images after they were saved as JPEG and loaded again.

    Args:
        saved: (N, C, H, W) uint8, C 1 or 3.
        quality: of Pillow's encoder, 1 to 95; chroma is subsampled 4:2:0, its default.

    Returns:
        (N, C, H, W) uint8.
    """
    told = _TOLD.get()
    if told is None:
        return _recoded(saved, quality)
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        found = _recoded(saved, quality)
        told(saved, found)
    return found


@contextlib.contextmanager
def telling(told: Callable[[Tensor, Tensor], None]) -> Iterator[None]:
    """A block in which `through_jpeg` is seen: what it does is no operator of torch.

    Args:
        told: is called with images before and after.
    """
    before = _TOLD.set(told)
    try:
        yield
    finally:
        _TOLD.reset(before)


def _recoded(saved: Tensor, quality: int) -> Tensor:
    import torch

    found = []
    for image in saved:
        buffer = io.BytesIO()
        _picture(image).save(buffer, format="JPEG", quality=quality)
        found.append(_pixels(Image.open(buffer, formats=["JPEG"])))  # ours, so it is complete
    return torch.stack(found)


def read_picture(
    source: bytes | Path,
    formats: Sequence[str],
    size: tuple[int, int] | None,
    most: int = MAX_PIXELS,
) -> Image.Image:
    """A picture, decoded, in the mode that its codec yields.

    Args:
        source: encoded bytes, or a file of them.
        formats: Pillow's names of the formats that are meant ("PNG", "JPEG", ...); no other codec
            is asked.
        size: (width, height) that it must have; None, where nobody knows it, is any.
        most: pixels that it may have.

    Returns:
        The loaded picture; `format` says which format it was.

    Raises:
        DataError: it is of another format or size, holds several pictures, or is damaged.
    """
    with _as_data_error(source, formats):
        if isinstance(source, bytes):
            return _read(io.BytesIO(source), formats, size, most)
        if source.exists() and not source.is_file():  # a pipe would block, a device never ends
            raise DataError("no regular file")
        with open(source, "rb") as file:
            bound = _BYTES_A_PIXEL * most + _BESIDE_PIXELS  # codecs read to the end of a file
            if (held := os.fstat(file.fileno()).st_size) > bound:
                raise DataError(f"{held:,} bytes, more than the {bound:,} that a picture may have")
            return _read(file, formats, size, most)


def check_picture(source: bytes, formats: Sequence[str], size: tuple[int, int]) -> None:
    """Refuse what `read_picture` would refuse by its head; no pixel is decoded.

    Args:
        source: encoded bytes.
        formats: as `read_picture` takes them.
        size: (width, height) that it must have.

    Raises:
        DataError: it is of another format or size, or holds several pictures.
    """
    if "PNG" in formats and _is_plain_png(source, size):
        return
    with _as_data_error(source, formats), _whole_files():
        _opened(io.BytesIO(source), formats, size, MAX_PIXELS)


def _is_plain_png(source: bytes, size: tuple[int, int]) -> bool:
    """Whether bytes are surely a PNG of this size: it begins with the only head that it has, and
    holds no further pictures. Ten times as fast as opening it; where it says no, that decides.
    """
    head = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", *size)
    return source.startswith(head) and source.find(b"IHDR", 16) < 0 and b"acTL" not in source


@contextlib.contextmanager
def _as_data_error(source: bytes | Path, formats: Sequence[str]) -> Iterator[None]:
    """Whatever a codec raises is a DataError."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"not a picture that can be read (expected {' or '.join(formats)})"
        ) from error
    except Exception as error:  # codecs raise many kinds on damaged bytes
        where = "" if isinstance(source, bytes) else str(source)
        reason = (str(error) or type(error).__name__).replace(where or "\0", "…")
        raise DataError(f"not a picture that can be read ({reason[:200]})") from error


def as_rgb(picture: Image.Image) -> Image.Image:
    """A decoded picture as 8-bit RGB, as torchvision and timm convert it, or refused.

    Gray is repeated, palettes are looked up, CMYK is converted without color profiles, an alpha
    channel is dropped, and of 12-bit and 16-bit gray the highest 8 bits are kept, as Pillow does
    with 16-bit colors. No color profile is applied to other pictures either. The orientation that
    EXIF states is not applied; that of TIFF is, by Pillow.

    Raises:
        DataError: the mode has no defined 8-bit value (32-bit, signed or floating-point samples,
            LAB, premultiplied alpha), or Pillow takes the file for another picture than it is.
    """
    _check_understood(picture)
    mode = picture.mode
    signed = any(kind != 1 for kind in _tag(picture, _SAMPLE_FORMAT))  # Pillow looks past it
    if mode == "RGB" and not signed:
        return picture
    if mode in _CONVERTED and not signed:
        return picture.convert("RGB")
    if mode in _PALETTES:
        return picture.convert("RGBA").convert("RGB")
    gray = mode in _SIXTEEN_BITS or (mode == "I" and picture.format in _WHOLE_NUMBERS)
    if gray and not signed:
        return Image.fromarray(_high_bits(picture)).convert("RGB")
    samples = " with signed samples" if signed and mode not in ("I", "F") else ""
    raise DataError(
        f"a picture of mode {mode}{samples}, which has no defined 8-bit value",
        hint="convert it to 8-bit RGB first",
    )


def _check_understood(picture: Image.Image) -> None:
    """Refuse what Pillow decodes into other colors without an error.

    Raises:
        DataError: saying what it is.
    """
    planar = _tag(picture, _PLANAR) == (2,) and _tag(picture, _COMPRESSION) in ((), (1,))
    levels = _tag(picture, _COLORS)
    wrong = ""
    if planar and max(_tag(picture, _BITS), default=1) > 8:
        wrong = "16-bit colors one after the other, uncompressed"
    elif 0 < max(levels, default=0) < 256:
        wrong = "a palette of 8-bit numbers where TIFF has 16 bits"
    elif picture.mode in _PALETTES:
        numbers = np.asarray(picture).reshape(*picture.size[::-1], -1)[:, :, 0]
        known = len(picture.palette.palette) // len(picture.palette.mode) if picture.palette else 0
        if not known:
            wrong = "colors by number without a palette"
        elif (most := int(numbers.max())) >= known:  # black in Pillow
            wrong = f"colors by number, of which {most} is not in its palette of {known}"
    if wrong:
        raise DataError(f"a picture of {wrong}", hint="convert it to 8-bit RGB first")


def _high_bits(picture: Image.Image) -> np.ndarray[Any, Any]:
    """(H, W) uint8, the highest 8 bits of a gray picture of more."""
    (bits,) = _tag(picture, _BITS) or (16,)  # Pillow leaves 12 bits as they are
    values: np.ndarray[Any, Any] = np.asarray(picture).astype(np.int64)
    if _tag(picture, _PHOTOMETRIC) == (0,):  # and of more than 8 bits, white as 0
        values = 2**bits - 1 - values
    return np.asarray((values >> (bits - 8)).clip(0, 255), dtype=np.uint8)


def _tag(picture: Image.Image, number: int) -> tuple[Any, ...]:
    """The values of a tag of a TIFF picture; () for other formats, and where it is not there."""
    found = getattr(picture, "tag_v2", {}).get(number, ()) if picture.format == "TIFF" else ()
    return found if isinstance(found, tuple) else (found,)


@contextlib.contextmanager
def _whole_files() -> Iterator[None]:
    """What is cut short is refused, whatever a plugin told Pillow."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _read(
    file: Any, formats: Sequence[str], size: tuple[int, int] | None, most: int
) -> Image.Image:
    # the size is judged when it is opened, and other metadata is not used
    with warnings.catch_warnings(), _whole_files():
        warnings.simplefilter("ignore")
        picture = _opened(file, formats, size, most)
        picture.load()
        if check := _CHECKS.get(picture.format or ""):
            check(picture, file)
    return picture


def _opened(
    file: Any, formats: Sequence[str], size: tuple[int, int] | None, most: int
) -> Image.Image:
    """A picture whose head was read and judged, and no pixel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        picture = Image.open(file, formats=list(formats))
        if size is not None and picture.size != size:
            raise DataError(
                f"{picture.size[0]}x{picture.size[1]} pixels, expected {size[0]}x{size[1]}"
            )
        if picture.size[0] * picture.size[1] > most:
            raise DataError(
                f"{picture.size[0]}x{picture.size[1]} pixels, more than the {most:,} that are "
                "decoded"
            )
        frames = getattr(picture, "n_frames", 1)
        if frames > 1 and picture.format != "MPO":  # cameras append a second view to a JPEG
            raise DataError(f"a file of {frames} pictures, expected one")
    return picture


def _picture(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])


def _pixels(picture: Image.Image) -> Tensor:
    import torch

    array = np.array(picture)
    channels = array[:, :, None] if array.ndim == 2 else array
    return torch.from_numpy(channels).permute(2, 0, 1).contiguous()
