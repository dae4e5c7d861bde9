"""Which folder is which class: names that agree across splits, and the order of `classes.txt`."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.datasets.files import CONTAINERS, in_text_order, printable
from bench.errors import DataError, did_you_mean
from bench.files.regular import read_regular
from bench.files.text import text_of
from bench.terminal import one_line

CLASSES_FILE = "classes.txt"
_LARGEST = 2**24
"""Bytes that it may have."""
_OTHER_LISTS = re.compile(r"\w*(class|label|synset|categor)\w*\.(txt|json|csv|tsv)")
"""Files in which others keep class names, in small letters."""
_HEADING = re.compile(
    r"(class|label|category|synset|folder)?[ _-]?(class|classes|labels?|names?|ids?|categor(y|ies)"
    r"|synsets?|wnids?|folders?):?",
    re.IGNORECASE,
)
"""The first line of a table of class names."""


def common_classes(splits: Mapping[str, Sequence[str]], split: str, name: str) -> list[str]:
    """The class folders of all splits together, in text order.

    A split whose folders are no classes (one folder "unknown", "images") is left out.

    Args:
        splits: name of a split's folder -> its folders that hold pictures.
        split: the one that is asked for, one of them.
        name: of the data set, for messages.

    Returns:
        Folder names; two that are one as text are one class.

    Raises:
        DataError: the split is not sorted into classes; it shares no class with a split of as many;
            two names differ in case, blanks or Unicode form alone.
    """
    own = splits[split]
    if own and all(folder.lower() in CONTAINERS for folder in own):
        raise DataError(
            f"{name}: {split}/ is not sorted into classes: it holds {_shown(own)}",
            hint="move its pictures into a folder for each class",
        )
    keys = {one: {_key(folder) for folder in folders} for one, folders in splits.items()}
    shares = {one: any(keys[one] & keys[other] for other in keys if other != one) for one in keys}
    kept = {one: folders for one, folders in splits.items() if one == split or shares[one]}
    if own and not shares[split]:
        larger = [one for one in splits if one != split and len(keys[one]) >= len(keys[split])]
        if larger:
            raise DataError(
                f"{name}: {split}/ has none of the classes of {larger[0]}/: it holds "
                f"{_shown(own)}, {larger[0]}/ holds {_shown(splits[larger[0]])}",
                hint="move its pictures into a folder for each class, called as there",
            )
        kept = {split: own}
    _check_apart(kept, name)
    return in_text_order({folder for folders in kept.values() for folder in folders})


def _check_apart(splits: Mapping[str, Sequence[str]], name: str) -> None:
    """Refuse classes whose names differ in case, blanks or Unicode form alone.

    Two that differ in case are two classes where one split holds both, as for letters.
    """
    groups: dict[str, dict[str, str]] = {}
    for split, folders in splits.items():
        for folder in folders:
            groups.setdefault(_key(folder), {}).setdefault(folder, split)
    for known in groups.values():
        plain = {printable(folder).strip() for folder in known}
        if len({printable(folder) for folder in known}) == 1 and all(
            len(set(known) & set(folders)) < 2 for folders in splits.values()
        ):
            continue  # one name, once a split, in two Unicode forms
        together = any(set(known) <= set(folders) for folders in splits.values())
        if len(known) > 1 and not (together and len(plain) == len(known)):
            one, two = [f"{split}/{folder}" for folder, split in known.items()][:2]
            raise DataError(
                f"{name}: the classes {one!a} and {two!a} "
                "differ in case, blanks or Unicode form alone",
                hint="give the folders of one class one name in all splits",
            )


def classes_file(
    root: Path, split: str, siblings: Sequence[Path], name: str
) -> tuple[tuple[str, ...] | None, str]:
    """(the lines of `classes.txt`, a remark on files like it that are not read).

    It lies beside the splits, or in the one folder where there are no others.

    Args:
        root: the folder of class folders.
        split: the name asked for.
        siblings: the folders of all splits.
        name: of the data set, for messages.

    Returns:
        None in place of the lines where there is no such file.

    Raises:
        DataError: it cannot be read, names a class twice or none, or lies in one of several splits.
    """
    alone = len(siblings) < 2
    places = [root, root.parent] if root.name == split else [root]
    others: list[str] = []
    for folder in places:
        files = in_text_order(os.listdir(folder))
        others += [file for file in files if _OTHER_LISTS.fullmatch(file.lower())]
        found = [file for file in files if file.lower() == CLASSES_FILE]
        if len(found) > 1:
            raise DataError(f"{name}: {_shown(found, '')} beside each other", hint="keep one")
        if found and folder == root and not alone:
            raise DataError(
                f"{name}: {found[0]} lies in {root.name}/, and so decides for this split alone",
                hint="it belongs beside the splits, where it decides for all of them",
            )
        if found:
            return _lines(folder / found[0], name), ""
    unread = [file for file in others if file.lower() != CLASSES_FILE]
    return None, f"{unread[0]} is not read ({CLASSES_FILE} would be)" if unread else ""


def labels_in(named: Sequence[str], folders: Sequence[str], name: str) -> dict[str, int]:
    """The label of each folder by its place among the lines of `classes.txt`.

    Raises:
        DataError: a folder is not named there, or a line looks like a comment or a heading, which
            would be a class and move all that follow.
    """
    places = {unicodedata.normalize("NFC", line): place for place, line in enumerate(named)}
    shown = {printable(folder) for folder in folders}
    for line in named:
        comment = line.startswith(("#", "//", ";"))
        heading = line is named[0] and _HEADING.fullmatch(line)
        if (comment or heading) and unicodedata.normalize("NFC", line) not in shown:
            raise DataError(
                f"{name}: {CLASSES_FILE}: {one_line(line, 60)!r} looks like a "
                f"{'comment' if comment else 'heading'}, and every line is a class",
                hint="take it out; a class of that name would have a folder",
            )
    for folder in folders:
        if printable(folder) not in places:
            raise DataError(
                f"{name}: {CLASSES_FILE} does not name the class {printable(folder)!r}"
                f"{did_you_mean(printable(folder), named)}",
                hint="it holds the name of a class a line, in label order, and nothing else",
            )
    return {folder: places[printable(folder)] for folder in folders}


def _lines(path: Path, name: str) -> tuple[str, ...]:
    try:
        lines = text_of(read_regular(path, _LARGEST)).splitlines()
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name}: {path.name}: {error}", hint="it is text in UTF-8, a class a line"
        ) from error
    named = tuple(line.strip() for line in lines)
    while named and not named[-1]:
        named = named[:-1]
    if "" in named:
        raise DataError(
            f"{name}: {path.name}: line {named.index('') + 1} is empty, and every line is a class",
            hint="take it out, or name the class that it stands for",
        )
    if not named or len({unicodedata.normalize("NFC", line) for line in named}) != len(named):
        raise DataError(f"{name}: {path.name} names {'a class twice' if named else 'no class'}")
    return named


def _key(folder: str) -> str:
    """What names of one class have in common."""
    return " ".join(printable(folder).casefold().split())


def _shown(folders: Sequence[str], after: str = "/") -> str:
    names = [f"{printable(folder)}{after}" for folder in folders]
    return ", ".join([*names[:3], "…"] if len(names) > 3 else names)
