"""Rows of a batch on their way through a block: the values and gradients of the plain way."""

import pytest
import torch
from torch import nn

from targets.pieces.rows import dot_rows, is_channels_last, on_rows, pick, put
from targets.resnet.blocks import BasicBlock

LAYOUTS = {"plain": torch.contiguous_format, "channels-last": torch.channels_last}


def _block(stride=1):
    torch.manual_seed(0)
    block = BasicBlock(4, 8 if stride == 2 else 4, stride).eval().requires_grad_(False)
    return block, nn.Conv2d(4, 8, 1, 2).requires_grad_(False) if stride == 2 else None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stride", [1, 2], ids=["own-shortcut", "projected"])
def test_a_block_on_some_rows_is_that_block_with_a_mask(stride, layout):
    block, projection = _block(stride)
    block.to(memory_format=LAYOUTS[layout])
    run = torch.tensor([True, False, True, True, False])
    images = torch.randn(5, 4, 6, 6).to(memory_format=LAYOUTS[layout])
    weights = torch.randn(5, 8 if stride == 2 else 4, 6 // stride, 6 // stride)

    def found(mix):
        x = images.clone(memory_format=torch.preserve_format).requires_grad_()
        features = x * 1.5  # something in front of it, whose gradient is used twice
        shortcut = features if projection is None else projection(features)
        mixed = mix(features, shortcut)
        value = (mixed * weights).sum() + (mixed.sum((2, 3)) ** 2).sum()
        first = torch.autograd.grad(value, x, retain_graph=True)[0]
        assert torch.equal(first, torch.autograd.grad(value, x)[0])
        return mixed.detach(), first

    masked = found(lambda x, s: torch.where(run[:, None, None, None], block(x, s), s))
    picked = found(lambda x, s: on_rows(block, x, s, run.nonzero().squeeze(1)))
    for mine, expected in zip(picked, masked, strict=True):
        assert torch.allclose(mine, expected, rtol=1e-5, atol=1e-5)
    assert is_channels_last(picked[0]) == (layout == "channels-last")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_keep_the_layout(layout):
    x = torch.randn(4, 3, 5, 5).to(memory_format=LAYOUTS[layout])
    rows = torch.tensor([3, 1])
    taken = pick(x, rows)
    assert torch.equal(taken, x[[3, 1]])
    back = put(x, rows, -taken)
    assert torch.equal(back[rows], -taken)
    assert torch.equal(back[[0, 2]], x[[0, 2]])
    assert is_channels_last(taken) == is_channels_last(back) == (layout == "channels-last")
    # a gradient that is the same at every pixel has no layout of its own; it takes that of the rest
    spread = torch.randn(4, 3, 1, 1).expand(4, 3, 5, 5)
    assert is_channels_last(put(spread, rows, taken)) == (layout == "channels-last")
    assert is_channels_last(pick(spread, rows, last=True))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_inner_products_of_rows(layout):
    a, b = (torch.randn(4, 3, 5, 5).to(memory_format=LAYOUTS[layout]) for _ in range(2))
    expected = torch.stack([torch.dot(x.flatten(), y.flatten()) for x, y in zip(a, b, strict=True)])
    assert torch.allclose(dot_rows(a, b), expected, rtol=1e-5, atol=1e-5)
