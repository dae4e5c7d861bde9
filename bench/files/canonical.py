"""Canonical documents and their digests: what keys are made of."""

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
