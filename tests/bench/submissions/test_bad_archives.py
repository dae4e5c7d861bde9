"""Archives that are refused: one sentence each, and nothing written."""

import io
import json
import struct
import zipfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import outsider
import pytest

from bench.errors import SubmissionError
from bench.submissions.archive import Archive

THREAT = {"norm": "linf", "eps": "64/255"}


class Case:
    """A good archive to be spoiled.

    Attributes:
        document: content of submission.json.
        files: name -> bytes of the pictures.
        images: id -> pixels.
    """

    def __init__(self, images):
        self.images = images
        self.document, self.files = outsider.submission(
            images, "toy", "random:0", "toy-pixels:test", THREAT
        )
        self.row = self.document["rows"][0]
        self.first = self.row["images"][0]

    def everything(self):
        return outsider.archive(self.document, self.files)

    def replace(self, data):
        """Put other bytes in place of the first picture, with their digest."""
        import hashlib

        self.files[self.first["file"]] = data
        self.first["sha256"] = hashlib.sha256(data).hexdigest()

    def pixels(self):
        return self.images[self.first["id"]].copy()


def zipped(files, change=lambda entry: None, **options):
    """A zip archive of (name, bytes) pairs; `change` edits each entry's header."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as out:
        for name, data in files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            change(entry)
            out.writestr(entry, data)
    return buffer.getvalue()


def renamed(case, name):
    """The first picture under another name, in archive and document."""
    files = case.everything()
    data = files.pop(case.first["file"])
    case.first["file"] = name
    files["submission.json"] = json.dumps(case.document).encode()
    return zipped([*files.items(), (name, data)])


def named(name):
    def spoil(case):
        return renamed(case, name)

    return spoil


def with_document(change):
    def spoil(case):
        change(case)
        return zipped(case.everything().items())

    return spoil


def with_picture(make):
    def spoil(case):
        case.replace(make(case))
        return zipped(case.everything().items())

    return spoil


def with_also(*extra):
    def spoil(case):
        return zipped([*case.everything().items(), *extra])

    return spoil


def with_raw_json(change):
    def spoil(case):
        files = case.everything()
        files["submission.json"] = change(files["submission.json"])
        return zipped(files.items())

    return spoil


def link(case):
    def change(entry):
        if entry.filename.endswith("0.png"):
            entry.external_attr = 0o120777 << 16

    return zipped(case.everything().items(), change)


def encrypted(case):
    data = bytearray(zipped(case.everything().items()))
    place = data.rindex(b"PK\x01\x02")
    data[place + 8] |= 1
    return bytes(data)


def lzma(case):
    def change(entry):
        entry.compress_type = zipfile.ZIP_LZMA

    return zipped(case.everything().items(), change)


def bomb(case):
    return zipped([*case.everything().items(), ("pictures/zeros.png", bytes(2**26 + 1))])


def claimed(case):
    """The last file claims a gigabyte."""
    data = bytearray(zipped(case.everything().items()))
    place = data.rindex(b"PK\x01\x02")
    data[place + 24 : place + 28] = struct.pack("<I", 2**30)
    return bytes(data)


def overlapping(case):
    """Two names for the bytes of one file."""
    data = bytearray(zipped(case.everything().items()))
    first = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    return bytes(data)


def flipped(case):
    """One byte of a picture's packed data changed."""
    data = bytearray(zipped(case.everything().items()))
    place = data.rindex(b"PK\x03\x04") + 30 + 20
    data[place] ^= 0xFF
    return bytes(data)


def duplicate(case):
    name = case.first["file"]
    with pytest.warns(UserWarning, match="Duplicate name"):
        return zipped([*case.everything().items(), (name, case.files[name])])


def latin(case):
    """A name whose bytes are no UTF-8, though the entry says so."""
    data = renamed(case, "pictures/\u00fc.png")
    return data.replace("\u00fc".encode(), b"\xfc\xfc")


def outside(case):
    image = case.pixels()
    image[:] = np.where(image < 128, 255, 0)
    return outsider.png(image)


def sixteen(case):
    return outsider.png(case.pixels().astype(">u2") * 257, depth=16)


def gray(case):
    return outsider.png(case.pixels()[:, :, :1].copy(), color=0)


def larger(case):
    return outsider.png(np.zeros((16, 16, 3), np.uint8))


def jpeg(case):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(case.pixels()).save(buffer, "JPEG")
    return buffer.getvalue()


def cut(case):
    return outsider.png(case.pixels())[:-40]


def said(field, value):
    def change(case):
        case.document[field] = value

    return with_document(change)


def board(**terms):
    def change(case):
        case.document["board"] |= terms

    return with_document(change)


def row(**values):
    def change(case):
        case.row |= values

    return with_document(change)


def image(**values):
    def change(case):
        case.first |= values

    return with_document(change)


def twice(case):
    case.row["images"].append(deepcopy(case.first))


def fewer(case):
    gone = case.row["images"].pop()
    del case.files[gone["file"]]


BAD = {
    "no-zip": (lambda case: b"images", "is no zip archive"),
    "tar": (lambda case: b"pictures/0.png" + bytes(498), "is no zip archive"),
    "appended": (lambda case: zipped(case.everything().items()) + b"x", "is no zip archive"),
    "prepended": (lambda case: b"#!/bin/sh\n" + zipped(case.everything().items()), "is no zip"),
    "cut-short": (lambda case: zipped(case.everything().items())[:-30], "is no zip archive"),
    "absolute": (named("/tmp/0.png"), "holds a file called '/tmp/0.png'"),
    "parent": (named("../../0.png"), "holds a file called '../../0.png'"),
    "backslash": (named("a\\0.png"), "holds a file called"),
    "drive": (named("C:/0.png"), "holds a file called 'C:/0.png'"),
    "hidden": (named("a/.bashrc"), "holds a file called 'a/.bashrc'"),
    "control-in-name": (named("a\x1b[31m.png"), "holds a file called"),
    "not-ascii": (named("\u0430.png"), "holds a file called"),
    "not-utf-8": (latin, "is a damaged zip archive"),
    "device": (named("aux.png"), "which is no name of a file on every system"),
    "dot-at-the-end": (named("pictures/a."), "which is no name of a file on every system"),
    "long-name": (named("a" * 201), "holds a file called"),
    "case-clash": (with_also(("Pictures/0.PNG", b"x")), "one file on many systems"),
    "duplicate": (duplicate, "holds 'pictures/0.png' twice"),
    "file-and-folder": (with_also(("pictures", b"x")), "holds 'pictures' as a file and as a"),
    "link": (link, "which is a link or another special file"),
    "encrypted": (encrypted, "which is encrypted"),
    "lzma": (lzma, "packed by method 14"),
    "bomb": (bomb, "which unpacks to 67,108,865 bytes"),
    "claims-more": (claimed, "which unpacks to 1,073,741,824 bytes"),
    "overlap": (overlapping, "its files overlap"),
    "damaged-bytes": (flipped, "with damaged bytes"),
    "program": (with_also(("setup.py", b"import os")), "which submission.json does not name"),
    "nested-archive": (with_also(("more.zip", zipped([("a", b"")]))), "which submission.json does"),
    "archive-as-picture": (with_picture(lambda case: zipped([("a", b"")])), "is no PNG of 8-bit"),
    "no-document": (
        lambda case: zipped(case.files.items()),
        "does not hold 'submission.json'",
    ),
    "no-json": (with_raw_json(lambda data: data[:-1]), "submission.json cannot be used"),
    "deep-json": (with_raw_json(lambda data: b"[" * 100_000), "submission.json cannot be used"),
    "key-twice": (
        with_raw_json(lambda data: data[:-1] + b', "who": "Another"}'),
        "the key 'who' is there twice",
    ),
    "endless-number": (image(squared=10**30), "does not fit into 64 bits"),
    "newer-format": (said("schema", 2), "its schema is 2"),
    "unknown-field": (said("run", "rm -rf"), "run: Unexpected keyword argument"),
    "number-as-text": (image(adversarial_macs="35619"), "adversarial_macs: Input should be"),
    "control-in-who": (said("who", "A\x1b[2J"), "who is empty, longer than"),
    "reordered-what": (said("what", "a\u202eb"), "what is empty, longer than"),
    "endless-what": (said("what", "a" * 2001), "what is empty, longer than 2000"),
    "no-license": (said("license", "do what you like"), "license is no SPDX identifier"),
    "script-link": (said("paper", "javascript:alert(1)"), "paper is no link"),
    "data-link": (said("code", "data:text/html,x"), "code is no link"),
    "markup-label": (row(attack="<b>best</b>"), "rows[0].attack is no label"),
    "taken-label": (row(attack="wander"), "another attack that is called 'wander'"),
    "label-that-looks-taken": (row(attack="wander "), "the label 'wander ' looks like 'wander'"),
    "other-board": (board(threat={"norm": "linf", "eps": "8/255"}), "has no board of"),
    "no-threat": (board(threat={"norm": "l7"}), "board.threat"),
    "other-data": (board(dataset="digits-m:test"), "has no board of digits-m:test"),
    "other-subset": (board(subset="0" * 64), "made from another data set"),
    "other-target": (row(target="resnet"), "the board has no target 'resnet'"),
    "other-weights": (row(weights="random:1"), "made for other weights"),
    "other-defense": (row(defense="jpeg"), "the board has no target 'toy + jpeg'"),
    "no-rows": (said("rows", []), "it has no rows"),
    "image-twice": (with_document(twice), "has two images of one id"),
    "image-missing": (with_document(fewer), "there is no image for"),
    "foreign-image": (image(id="train-1"), "there is no image for"),
    "file-missing": (image(file="pictures/none.png"), "does not"),
    "wrong-digest": (image(sha256="0" * 64), "has another sha256"),
    "no-digest": (image(sha256="none"), "has a sha256 that is none"),
    "outside-threat": (with_picture(outside), "lies outside"),
    "sixteen-bits": (with_picture(sixteen), "is no PNG of 8-bit RGB"),
    "gray": (with_picture(gray), "is no PNG of 8-bit RGB"),
    "other-size": (with_picture(larger), "16x16 pixels, expected 8x8"),
    "jpeg": (with_picture(jpeg), "is no PNG of 8-bit RGB"),
    "picture-cut-short": (with_picture(cut), "not a picture that can be read"),
    "claimed-macs": (image(adversarial_macs=1), "adversarial_macs is 1 there, "),
    "claimed-distance": (image(linf=255), "linf is 255 there, "),
    "claimed-label": (image(label=77), "label is 77 there, "),
    "claimed-clean": (image(clean_macs=1), "clean_macs is 1 there, "),
}


def everything(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "lock"
    }


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_archive_is_refused_in_one_sentence_and_writes_nothing(
    gatebench, board, stronger, tmp_path, kind
):
    spoil, expected = BAD[kind]
    (tmp_path / "bad.zip").write_bytes(spoil(Case(stronger)))
    before = everything(board.path)
    code, out, err = gatebench("accept", "bad.zip", "--into", "board", "--no-report")
    assert code == 10, (out, err)
    said, *hints = err.strip().splitlines()
    assert said.startswith("gatebench: ")
    assert "bad.zip" in said
    assert expected in said
    assert len(hints) <= 1
    assert "Traceback" not in err
    assert everything(board.path) == before
    assert not list(board.path.glob(".accept-*"))


def test_one_bad_archive_among_good_ones_leaves_all_out(gatebench, board, stronger, tmp_path):
    good = Case(stronger)
    outsider.write(tmp_path / "good.zip", good.everything())
    (tmp_path / "bad.zip").write_bytes(b"images")
    before = everything(board.path)
    code, *_ = gatebench("accept", "good.zip", "bad.zip", "--into", "board", "--no-report")
    assert code == 10
    assert everything(board.path) == before


@pytest.mark.parametrize("kind", ["missing", "folder", "link"])
def test_what_is_no_plain_file_is_refused(gatebench, board, tmp_path, kind):
    path = tmp_path / "bad.zip"
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "plan.toml")
    code, _, err = gatebench("accept", "bad.zip", "--into", "board")
    assert code == 10
    assert "bad.zip is no plain file" in err


def test_a_name_that_no_file_can_have():
    with pytest.raises(SubmissionError, match="is no plain file"):
        Archive(Path("x" * 5000))
