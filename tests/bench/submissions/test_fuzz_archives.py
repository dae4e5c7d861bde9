"""Archives of any content: accepted or refused with a sentence, and nothing is written but rows.

`GATEBENCH_FUZZ=5000` makes that many; by default a few, the same.
"""

import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections import Counter

import fuzz
import outsider
import pytest
from fuzzing import WANTED, command, fuzzed, mutated, values
from hypothesis import given, settings
from hypothesis import strategies as st

THREAT = {"norm": "linf", "eps": "64/255"}
DOCUMENT = "submission.json"
NAMES = [
    "../outside", "a/../../outside", "/tmp/outside", "C:/outside", "..\\outside", "a//b", "a/", ".",
    "con", "nul.png", "ü.png", "a\0b", "x" * 300, DOCUMENT, "Submission.json", "pictures",
    "pictures/0.png", "pictures/0.png/a", "plan.json", "cells/a/cell.json", "a b", "\u202e.png",
]  # fmt: skip
KINDS = [0o120777, 0o040755, 0o010644, 0o020644, 0o060644, 0o140755, 0o100644, 0o104755, 0]
"""Types of a file on Unix: link, folder, pipe, devices, socket, plain ones."""
SIZES = [0, 1, 40, 2**16, 2**26 + 1, 2**30, 2**32 - 1]
DOCUMENTS = [b"", b"{}", b"[]", b"null", b"\xff\xfe{\0}\0", b"[" * 9000, b'{"schema": 1e999}']


class Member:
    """One file of an archive, and how its headers lie.

    Attributes:
        name: in the archive.
        data: its content.
        kind: of file, as Unix has it.
        method: of compression.
        claimed: size that both headers state, None for the true one.
    """

    def __init__(self, name, data):
        self.name, self.data = name, data
        self.kind, self.method, self.claimed = 0, zipfile.ZIP_DEFLATED, None


def packed(members):
    """The members as a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for member in members:
            entry = zipfile.ZipInfo("replaced")
            entry.filename = entry.orig_filename = member.name
            entry.compress_type, entry.external_attr = member.method, member.kind << 16
            out.NameToInfo.clear()  # a name may be there twice
            out.writestr(entry, member.data)
            member.place = entry.header_offset
        start = out.start_dir
    found = bytearray(buffer.getvalue())
    for member in members:
        if member.claimed is not None:  # of the local header; the directory's follows
            struct.pack_into("<L", found, member.place + 22, member.claimed)
            at = start
            while struct.unpack_from("<L", found, at + 42)[0] != member.place:
                at += 46 + sum(struct.unpack_from("<3H", found, at + 28))
            struct.pack_into("<L", found, at + 24, member.claimed)
    return bytes(found)


def edited(draw, members):
    """One change of a file of the archive, or of which there are."""
    one = draw(st.sampled_from(members))
    place = members.index(one)
    deed = draw(
        st.sampled_from(["name", "cut", "twice", "gone", "kind", "claim", "method", "swap", "more"])
    )
    if deed == "name":
        one.name = draw(st.sampled_from(NAMES))
    elif deed == "cut":
        one.data = one.data[: draw(st.integers(0, len(one.data)))]
    elif deed == "twice":
        again = Member(one.name, one.data)
        members.insert(draw(st.integers(0, len(members))), again)
    elif deed == "gone" and len(members) > 1:
        del members[place]
    elif deed == "kind":
        one.kind = draw(st.sampled_from(KINDS))
    elif deed == "claim":
        one.claimed = draw(st.sampled_from(SIZES))
    elif deed == "method":
        one.method = draw(
            st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
        )
    elif deed == "swap":
        other = draw(st.sampled_from(members))
        one.data, other.data = other.data, one.data
    else:
        members.append(Member(draw(st.sampled_from(NAMES)), draw(st.binary(max_size=50))))


def rewritten(draw, members, document):
    """Another submission.json, or another picture whose digest the document states."""
    if draw(st.booleans()):
        picture = next(one for one in members if one.name != DOCUMENT)
        picture.data = draw(fuzz.mutated([picture.data]))
        document["rows"][0]["images"][0]["sha256"] = hashlib.sha256(picture.data).hexdigest()
    else:
        document = draw(st.one_of(values, st.builds(lambda: mutated(draw, document))))
    text = json.dumps(document).encode("utf-8", "surrogatepass")
    text = draw(st.one_of(st.just(text), st.sampled_from(DOCUMENTS), fuzz.mutated([text])))
    for member in members:
        if member.name == DOCUMENT:
            member.data = text


def changed(draw, document, files):
    """The bytes of an archive that was good, with a few changes."""
    content = json.loads(json.dumps(document))
    members = [Member(name, data) for name, data in outsider.archive(content, files).items()]
    if draw(st.booleans()):
        rewritten(draw, members, content)
    for _ in range(draw(st.integers(0, 3))):
        edited(draw, members)
    data = packed(members)
    return draw(fuzz.mutated([data])) if draw(st.integers(0, 3)) == 0 else data


def everything(folder):
    """Path -> bytes of all files below a folder, links by what they say, but for locks."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or (path.is_file() and path.name != "lock")
    }


@pytest.fixture
def good(board, stronger):
    """(document, files) of an archive that the board accepts."""
    return outsider.submission(stronger, "toy", "random:0", "toy-pixels:test", THREAT)


def test_whatever_an_archive_holds_is_told_in_a_sentence(board, good, made, tmp_path):
    bad, codes = tmp_path / "bad.zip", Counter()
    bad.write_bytes(b"")
    whole = everything(tmp_path)
    accept = ("accept", str(bad), "--into", "board", "--no-report")

    @settings(fuzzed, max_examples=WANTED or 30)
    @given(st.data())
    def check(data):
        bad.write_bytes(changed(data.draw, *good))
        with fuzz.nothing_runs(inside=board.path):
            code = command(*accept)
        codes[code] += 1
        bad.write_bytes(b"")
        if code == 0:
            shutil.rmtree(board.path)
            shutil.copytree(made, board.path)
        else:
            assert code == 10
        now = everything(tmp_path)
        assert not {name for name in {**now, **whole} if now.get(name) != whole.get(name)}

    check()
    assert codes[10] > codes[0], codes


def test_the_archive_is_good_before_it_is_changed(board, good, tmp_path):
    document, files = good
    members = [Member(name, data) for name, data in outsider.archive(document, files).items()]
    (tmp_path / "good.zip").write_bytes(packed(members))
    accept = ("accept", str(tmp_path / "good.zip"), "--into", "board", "--no-report")
    with fuzz.nothing_runs(inside=board.path):
        assert command(*accept) == 0
    with pytest.raises(AssertionError), fuzz.nothing_runs(inside=board.path / "cells"):
        (board.path / "plan.json").write_bytes(b"{}")
