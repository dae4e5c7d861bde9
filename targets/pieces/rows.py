"""Some rows of a batch, taken out and put back in the memory layout that the batch has:
convolutions would convert them otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Block = Callable[[Tensor, Tensor], Tensor]
"""(features, shortcut) -> features of the shape of the shortcut."""


def pick(x: Tensor, rows: Tensor, *, last: bool | None = None) -> Tensor:
    """The rows of x (N, C, H, W) at `rows` (M,) int64: (M, C, H, W).

    Args:
        x: the batch.
        rows: which rows.
        last: whether the result is in channels-last layout; as x is unless given.
    """
    if not (is_channels_last(x) if last is None else last):
        return x.index_select(0, rows)
    return x.permute(0, 2, 3, 1).index_select(0, rows).permute(0, 3, 1, 2)


def put(x: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    """x (N, C, H, W) with `values` (M, C, H, W) at `rows` (M,) int64, in the layout of the
    values."""
    if not is_channels_last(values):
        return x.index_copy(0, rows, values)
    whole = x.permute(0, 2, 3, 1).index_copy(0, rows, values.permute(0, 2, 3, 1))
    return whole.permute(0, 3, 1, 2)


def is_channels_last(x: Tensor) -> bool:
    """Whether x (N, C, H, W) lies in memory pixel by pixel, and in no other way too."""
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def on_rows(block: Block, x: Tensor, shortcut: Tensor, rows: Tensor) -> Tensor:
    """The shortcut, with block(x, shortcut) in its place at some rows.

    Args:
        block: rows never mix in it.
        x: (N, C, H, W) features.
        shortcut: (N, C', H', W'); x itself where it is its own shortcut.
        rows: (M,) int64, each once.
    """
    kept, taken = _Take.apply(shortcut, rows)
    inputs = taken if shortcut is x else pick(x, rows)
    whole: Tensor = _PutBack.apply(kept, block(inputs, taken), rows)
    return whole


def dot_rows(a: Tensor, b: Tensor) -> Tensor:
    """(N,) the inner product of each row of a with that of b, both (N, C, H, W)."""
    product = a * b
    if is_channels_last(product):  # flattened in the other order it would be copied
        product = product.permute(0, 2, 3, 1)
    return product.flatten(1).sum(1)


class _Take(torch.autograd.Function):
    """A batch, and some of its rows on their way through a block.

    Together with `_PutBack` it passes once over the gradient of the batch, where zeros written at
    the rows that were replaced, a second batch of zeros with the block's gradient, and their sum
    would pass over it four times.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(rows)
        return x.view_as(x), pick(x, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        kept, taken = grads
        (rows,) = ctx.saved_tensors
        return put(kept, rows, taken), None


class _PutBack(torch.autograd.Function):
    """The batch with the block's output at its rows.

    The gradient that it passes on as the batch's is wrong at these rows, where it has to be 0;
    `_Take`, to which alone it goes, does not read it there.
    """

    @staticmethod
    def forward(ctx: Any, kept: Tensor, values: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.last = is_channels_last(values)
        return put(kept, rows, values)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        (rows,) = ctx.saved_tensors
        return grad, pick(grad, rows, last=ctx.last), None
