"""In what torch computes products and convolutions of float32 numbers.

Torch has two sets of switches for that: newer ones for each kind of operator, which take what they
leave open from more general ones, and older ones, which it refuses to read where both disagree.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


def compute_in_float32() -> None:
    """Neither TF32 nor bfloat16, by any switch, on no device."""
    import torch

    for place in _newer():
        place.fp32_precision = "ieee"
    for place in _older():
        place.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")


@contextlib.contextmanager
def precision_kept() -> Iterator[None]:
    """Around what changes the switches: afterwards they are as before."""
    import torch

    newer = [(place, place.fp32_precision) for place in _newer()]
    older = []
    for place in _older():
        with contextlib.suppress(RuntimeError):  # they disagree with the newer ones
            older.append((place, place.allow_tf32))
    products = None
    with contextlib.suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        for place, allowed in older:
            place.allow_tf32 = allowed
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for place, precision in newer:
            place.fp32_precision = precision


def _newer() -> list[Any]:
    """The places of the newer switches, the general ones first."""
    import torch

    found: Any = torch.backends
    general = [found, found.cudnn, found.mkldnn]
    products = [found.cuda.matmul, found.mkldnn.matmul]
    return [*general, *products, *(kind for one in general[1:] for kind in (one.conv, one.rnn))]


def _older() -> list[Any]:
    import torch

    return [torch.backends.cuda.matmul, torch.backends.cudnn]
