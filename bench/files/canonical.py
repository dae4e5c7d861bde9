"""Canonical documents, their digests, and seeds: what keys and random streams are made of."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(document: Any) -> bytes:
    """The one way to write a document: sorted keys, no spaces, no NaN."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def digest(document: Any) -> str:
    """sha256 (hex) of the canonical form."""
    return hashlib.sha256(canonical(document)).hexdigest()


def seed_of(*words: object) -> int:
    """A seed in [0, 2^63) that depends on these words alone.

    Args:
        words: written one a line; the first 63 bits of the sha256 of that text are the seed.

    Example:
        >>> seed_of(0, "test-0123456789abcdef")
        5907307584893563530
    """
    text = "\n".join(str(word) for word in words)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
