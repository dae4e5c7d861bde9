"""Some rows of a batch, taken out and put back in the memory layout that the batch has:
convolutions would convert them otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """The rows of x (N, C, H, W) at `rows` (M,) int64: (M, C, H, W)."""
    if _is_plain(x):
        return x.index_select(0, rows)
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """x (N, C, H, W) with `values` (M, C, H, W) at `rows` (M,) int64."""
    if _is_plain(x):
        return x.index_copy(0, rows, values)
    whole = x.permute(0, 2, 3, 1).index_copy(0, rows, values.permute(0, 2, 3, 1))
    return whole.permute(0, 3, 1, 2)


def _is_plain(x: Tensor) -> bool:
    return x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last)
