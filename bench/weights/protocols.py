"""Pickles of protocols 3 to 5 as protocol 2, which is what torch's safe unpickler reads.

Opcodes are written anew one by one and none is executed. What has no equal in protocol 2 stays
untranslated, and torch refuses it.
"""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from pathlib import Path

from bench.weights.archives import data_pickle, read_entry

MAGIC = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that torch's older format begins with, as a pickle of protocol 2 or more."""
PLAIN_MAGIC = b"L119547037146038801333356L\n."
"""The same as a pickle of protocol 0 or 1."""
_BYTES = ("SHORT_BINBYTES", "BINBYTES", "BINBYTES8")
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")
_GETS = ("BINGET", "LONG_BINGET", "GET")


def for_torch(path: Path) -> Path | io.BytesIO:
    """What torch's safe unpickler can read: the file itself, or a copy with other opcodes.

    Args:
        path: of a torch file whose archive was checked.
    """
    with open(path, "rb") as file:
        head = file.read(2)
    if head == b"PK":
        with zipfile.ZipFile(path) as archive:
            name = data_pickle(archive.namelist())
            pickled = read_entry(archive, name)
            if not _is_newer(pickled):
                return path
            changed = io.BytesIO()
            with zipfile.ZipFile(changed, "w") as copy:
                for entry in archive.namelist():
                    copy.writestr(
                        entry,
                        _older(pickled)[0] if entry == name else read_entry(archive, entry),
                    )
    elif _is_newer(head):
        rest, parts = path.read_bytes(), []
        for _ in range(5):  # magic number, protocol, system, object, storage keys
            part, length = _older(rest)
            parts.append(part)
            rest = rest[length:]
        changed = io.BytesIO(b"".join([*parts, rest]))
    else:
        return path
    changed.seek(0)
    return changed


def _is_newer(data: bytes) -> bool:
    """Whether a pickle says that it is of protocol 3, 4 or 5."""
    return len(data) > 1 and data[0] == 0x80 and data[1] in (3, 4, 5)


def _older(data: bytes) -> tuple[bytes, int]:
    """(the first pickle of `data` in opcodes of protocol 2, its length before that).

    Raises:
        ValueError: it is no pickle.
    """
    out: list[bytes] = []
    texts: dict[int, str] = {}
    told: list[tuple[int, str]] = []  # texts pushed last: (place in `out`, text)
    count, last, end = 0, False, 0
    codes = list(_opcodes(data))
    for number, (name, argument, start) in enumerate(codes):
        end = codes[number + 1][2] if number + 1 < len(codes) else start + 1
        if name in _TEXTS or (name in _GETS and argument in texts):
            text = str(argument) if name in _TEXTS else texts[_number(argument)]
            told.append((len(out), text))
            out.append(_text(text))
            last = True
            continue
        if name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            place = count if name == "MEMOIZE" else _number(argument)
            count += 1
            if last and told:
                texts[place] = told[-1][1]
            else:
                out.append(b"r" + struct.pack("<I", place))
            continue
        if name == "STACK_GLOBAL" and len(told) > 1:
            (_, module), (_, attribute) = told[-2:]
            del out[told[-2][0] :]
            out.append(f"c{module}\n{attribute}\n".encode())
        elif name == "PROTO":
            out.append(b"\x80\x02")
        elif name in _BYTES and isinstance(argument, bytes):
            words = _text(argument.decode("latin1")) + _text("latin1")
            out.append(b"c_codecs\nencode\n" + words + b"\x86R")
        elif name != "FRAME":
            out.append(data[start:end])
        last = False
        told.clear()
    return b"".join(out), end


def _opcodes(data: bytes) -> list[tuple[str, object, int]]:
    """(name, argument, place) of every opcode of the first pickle in `data`."""
    found = pickletools.genops(data)
    return [(code.name, argument, place or 0) for code, argument, place in found]


def _number(argument: object) -> int:
    return argument if isinstance(argument, int) else -1


def _text(text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded
