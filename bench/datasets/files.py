"""Which files of a folder belong to a data set: junk, names in any encoding, shards of a split."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from bench.errors import DataError

SPLIT_NAMES = ("train", "training", "val", "valid", "validation", "test", "testing", "dev", "eval")
"""What people call the folders of splits, in small letters."""
_SPLIT_LIKE = re.compile(rf"({'|'.join(SPLIT_NAMES)})([-_ ]?(\d+|images?|imgs?|set|data))?")
_FILE_LIKE = re.compile(r"\.[A-Za-z0-9]{1,8}$")
"""How names of files end."""
CONTAINERS = ("images", "image", "imgs", "img", "jpegimages", "labels", "masks", "annotations")
"""Folders that hold the pictures of all classes, or what belongs to them, in small letters."""
UNREAD = (
    *(".gif", ".avif", ".heic", ".heif", ".jp2", ".j2k", ".jxl", ".jfif", ".jpe", ".tga", ".ico"),
    *(".pcx", ".psd", ".eps", ".svg", ".dng", ".cr2", ".nef", ".webp", ".tif", ".tiff", ".pgm"),
)
"""Endings of pictures that a data set may not read."""
_PACKED = (
    *(".tar", ".tgz", ".gz", ".zip", ".7z", ".rar", ".xz", ".parquet", ".arrow", ".tfrecord"),
    *(".rec", ".lmdb", ".mdb", ".h5", ".hdf5", ".npz", ".mat", ".pkl", ".beton"),
)
"""Endings of files that hold many pictures."""

_JUNK = frozenset(
    (
        "__macosx",
        "__pycache__",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "@eadir",
        "#recycle",
        "$recycle.bin",
        "recycler",
        "system volume information",
        "lost+found",
        "icon\r",
    )
)


def is_junk(name: str) -> bool:
    """Whether another program left a file or folder of that name.

    Hidden names (".DS_Store", resource forks "._x.png", ".ipynb_checkpoints"), thumbnails, recycle
    bins, backup copies ("x.png~"), and the folder "__MACOSX" that archives carry.
    """
    return name.startswith(".") or name.endswith("~") or name.lower() in _JUNK


def is_split_like(name: str) -> bool:
    """Whether a folder is called as splits are: "train", "Valid", "test1", "val2017"."""
    return _SPLIT_LIKE.fullmatch(name.lower()) is not None


def printable(name: str) -> str:
    r"""A file's name as text: bytes that are no UTF-8 are written as "\xNN", as in "caf\xe9".

    Letters with marks are composed (Unicode's form NFC), since some file systems take them apart.
    """
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)


def in_text_order(names: Iterable[str]) -> list[str]:
    """Names in text order, the same whether a file system composes letters with marks or not."""
    return sorted(names, key=lambda name: (unicodedata.normalize("NFC", name), name))


def folders_in(folder: Path) -> list[str]:
    """Names of the folders in a folder, junk left out, in text order."""
    with os.scandir(folder) as entries:
        return in_text_order(
            entry.name for entry in entries if not is_junk(entry.name) and entry.is_dir()
        )


def check_leads_somewhere(folder: Path, name: str) -> None:
    """Refuse a folder of class folders in which a link leads to nothing: it may be a class, without
    which others would have its label.

    Args:
        folder: where to look; what is called as files are ("x.png") is left to whoever reads it.
        name: of the data set, for messages.

    Raises:
        DataError: naming the link.
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as entries:
        lost = [
            entry.name
            for entry in entries
            if entry.is_symlink()
            and not is_junk(entry.name)
            and not _FILE_LIKE.search(entry.name)
            and not os.path.exists(entry.path)
        ]
    if lost:
        raise DataError(
            f"{name}: {folder / printable(min(lost))} is a link to nothing; it may be a class",
            hint="put back what it leads to, or remove the link",
        )


def not_unpacked(folder: Path) -> str:
    """In words, the end of a hint: an archive in a folder whose data set was not found in it."""
    names = pictures_beside(folder, _PACKED)
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"; {printable(names[0])}{more} is not read as it is: unpack it" if names else ""


def pictures_beside(folder: Path, extensions: Sequence[str]) -> list[str]:
    """Names of the files in a folder itself that end in one of `extensions`, junk left out."""
    with os.scandir(folder) as entries:
        return in_text_order(
            entry.name
            for entry in entries
            if not is_junk(entry.name)
            and entry.name.lower().endswith(tuple(extensions))
            and not entry.is_dir()
        )


def walk_pictures(
    folder: Path, extensions: Sequence[str], walked: set[tuple[int, int]] | None = None
) -> Iterator[str]:
    """Paths below `folder` of the files in it, at any depth, that end in one of `extensions`.

    In the order of torchvision's `make_dataset`: folders in text order, a folder's files in text
    order. Links are followed, each folder once; one that leads to a folder above `folder` is not,
    since everything beside `folder` would be below it.

    Args:
        folder: where to look.
        extensions: in small letters.
        walked: gets (device, inode) of every folder that was looked into.

    Raises:
        OSError: a folder cannot be read.
    """
    above = [os.stat(place) for place in Path(os.path.realpath(folder)).parents]
    above += [os.stat(place) for place in Path(os.path.abspath(folder)).parents]
    seen = {(status.st_dev, status.st_ino) for status in above}
    found: list[tuple[str, list[str]]] = []
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        if walked is not None:
            walked.add((status.st_dev, status.st_ino))
        folders[:] = in_text_order(name for name in folders if not is_junk(name))
        pictures = [
            name for name in files if not is_junk(name) and name.lower().endswith(tuple(extensions))
        ]
        found.append((place, in_text_order(pictures)))
    found.sort(key=lambda one: (unicodedata.normalize("NFC", one[0]), one[0]))
    for place, names in found:
        below = os.path.relpath(place, folder)
        for name in names:
            yield name if below == "." else f"{below}/{name}".replace(os.sep, "/")


def check_one_owner(
    owners: dict[tuple[int, int], str],
    walked: Iterable[tuple[int, int]],
    folder: str,
    name: str,
) -> None:
    """Refuse a folder whose pictures would have two labels, since a link leads into another class.

    Args:
        owners: of the folders known so far, by (device, inode); gets these.
        walked: what `walk_pictures` looked into below a class folder.
        folder: the class folder.
        name: of the data set, for messages.

    Raises:
        DataError: naming both classes.
    """
    for place in walked:
        other = owners.setdefault(place, folder)
        if other != folder:
            raise DataError(
                f"{name}: the classes {printable(other)!r} and {printable(folder)!r} "
                "hold the same folder, by a link",
                hint="remove the link",
            )


def _refuse(error: OSError) -> None:
    raise error


def split_shards(folder: Path, split: str, name: str) -> list[Path]:
    """The parquet files of one split in a folder, in order.

    Either "SPLIT.parquet", or a whole set "SPLIT-00000-of-00002.parquet" and so on.

    Args:
        folder: where to look; it need not be there.
        split: of the data set. Files of other splits, as "train-extra.parquet" for "train", are not
            its.
        name: of the data set, for messages.

    Returns:
        The files; none where there are none.

    Raises:
        DataError: a file of the set is missing, the split is there in two forms, or two files are
            the same.
    """
    pattern = re.compile(
        rf"{re.escape(split)}(?:-(\d{{1,9}})-of-(\d{{1,9}})(?:-[0-9a-f]{{8,64}})?)?\.parquet"
    )
    if not folder.is_dir():
        return []
    sets: dict[int, dict[int, list[Path]]] = {}
    for path in sorted(folder.iterdir()):
        match = pattern.fullmatch(path.name)
        if match and path.is_file():
            number, total = (int(match[1]), int(match[2])) if match[1] else (0, 0)
            sets.setdefault(total, {}).setdefault(number, []).append(path)
    if not sets:
        return []
    everything = [path for shards in sets.values() for paths in shards.values() for path in paths]
    if len(sets) > 1 or any(
        len(paths) > 1 for shards in sets.values() for paths in shards.values()
    ):
        shown = ", ".join(path.name for path in everything[:6])
        raise DataError(
            f"{name}: {folder} holds {split} in more than one form: {shown}",
            hint="keep one of them",
        )
    ((total, shards),) = sets.items()
    missing = [number for number in range(min(total, len(shards) + 6)) if number not in shards]
    if missing:
        shown = ", ".join(map(str, missing[:6]))
        raise DataError(
            f"{name}: {folder} holds {len(shards)} of the {total} files of {split}; "
            f"missing: {shown}",
            hint="fetch the others too",
        )
    if total and max(shards) >= total:
        raise DataError(f"{name}: {shards[max(shards)][0]} is numbered beyond its own total")
    files = [shards[number][0] for number in sorted(shards)]
    _check_different(files, name)
    return files


def _check_different(files: Sequence[Path], name: str) -> None:
    """Refuse a file that is there twice under two numbers."""
    if len(files) < 2:
        return
    known: dict[bytes, Path] = {}
    for path in files:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        if digest in known:
            raise DataError(
                f"{name}: {known[digest].name} and {path.name} are the same file",
                hint="fetch one of them again",
            )
        known[digest] = path
