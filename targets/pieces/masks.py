"""Hard masks over the rows of a batch: a block runs for some images, and the mask may pass on the
gradient of its gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from targets.pieces.rows import Block, dot_rows, on_rows, pick, put


def mix_rows(
    block: Block, x: Tensor, shortcut: Tensor, run: Tensor, value: Tensor | None, leaves_out: bool
) -> Tensor:
    """m block(x) + (1 - m) shortcut.

    Args:
        block: rows never mix in it, but for batch normalization in training.
        x: (N, C, H, W) features in front of it.
        shortcut: (N, C', H', W') what passes it by; x itself where it is its own shortcut.
        run: (N,) bool, m.
        value: (N,) gate values whose gradient the mask passes on; None for a constant mask.
        leaves_out: evaluate the block only where that matters.
    """
    if not leaves_out:
        through = block(x, shortcut)
        mixed = torch.where(run[:, None, None, None], through, shortcut)
        if value is None:
            return mixed
        effect = through.detach() - shortcut.detach()
        return _straight_through(mixed, value, lambda: effect)
    count = int(run.sum())
    if count == 0:
        mixed = shortcut
    elif count == len(run):
        mixed = block(x, shortcut)
    else:
        mixed = on_rows(block, x, shortcut, run.nonzero().squeeze(1))
    if value is None:
        return mixed
    return _straight_through(mixed, value, _effect(block, x, shortcut, mixed, run))


def _straight_through(mixed: Tensor, value: Tensor, effect: Callable[[], Tensor]) -> Tensor:
    """The mixed features, whose gradient reaches the gate values too; see `_StraightThrough`."""
    passed: Tensor = _StraightThrough.apply(mixed, value, effect)
    return passed


class _StraightThrough(torch.autograd.Function):
    """The mixed features unchanged, with the gradient that a soft mask of the same value would give
    the gate.

    x' = m block(x) + (1 - m) shortcut(x), so d x' / d m = effect = block(x) - shortcut(x), and d m
    / d G is taken as 1. The effect is asked for when the first gradient arrives: none ever does at
    a gate that nothing behind it depends on.
    """

    @staticmethod
    def forward(ctx: Any, mixed: Tensor, value: Tensor, effect: Callable[[], Tensor]) -> Tensor:
        ctx.effect, ctx.known = effect, None
        ctx.dtype = value.dtype
        return mixed.view_as(mixed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,) = grads
        if ctx.known is None:
            ctx.known, ctx.effect = ctx.effect(), None
        effect = ctx.known
        return grad, dot_rows(grad.to(ctx.dtype), effect.to(ctx.dtype)), None


def _effect(
    block: Block, x: Tensor, shortcut: Tensor, mixed: Tensor, run: Tensor
) -> Callable[[], Tensor]:
    """block(x) - shortcut of all rows, to be computed later; the block runs for the closed rows,
    without a graph.

    Args:
        block: behind the gate.
        x, shortcut: in front of it; `shortcut` may be x itself.
        mixed: (N, C, H, W), block(x, shortcut) where `run` says so.
        run: (N,) bool.
    """
    own, kind = shortcut is x, x.device.type
    x, shortcut, mixed = x.detach(), shortcut.detach(), mixed.detach()
    autocast = torch.autocast(
        kind, dtype=torch.get_autocast_dtype(kind), enabled=torch.is_autocast_enabled(kind)
    )

    def found() -> Tensor:
        rows = (~run).nonzero().squeeze(1)
        with torch.no_grad(), autocast:
            if len(rows) == 0:
                return mixed - shortcut
            inputs = pick(x, rows)
            closed = block(inputs, inputs if own else pick(shortcut, rows))
            return put(mixed, rows, closed).sub_(shortcut)

    return found
