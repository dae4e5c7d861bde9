"""Text that a person wrote with any editor: UTF-8, with or without a byte-order mark."""

from __future__ import annotations

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def text_of(data: bytes) -> str:
    """The text in the bytes of a file, without its byte-order mark.

    Raises:
        ValueError: it is not UTF-8; says what it is, or where it stops being that.

    Example:
        >>> text_of(b"\\xef\\xbb\\xbfdepth = 20")
        'depth = 20'
    """
    if data.startswith(_UTF_16):
        raise ValueError("it is UTF-16; save it as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"byte {error.start}, on line {line}, is no UTF-8") from None
