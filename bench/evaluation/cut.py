"""An output cut from its network: what losses are given, and where their gradients go on."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bench.contracts.target import Output


class CutOutput:
    """An output whose tensors are leaves: their graph ends there, and no way leads to the network.

    A loss computed from the leaves has a gradient with respect to them, which costs nothing. That
    gradient goes on through the network in a backward pass, which does. Both halves compute what
    one backward pass of the whole graph would, in the same order.

    Args:
        output: of an evaluation, in its graph.

    Attributes:
        leaves: the output that losses are given.
    """

    def __init__(self, output: Output) -> None:
        self._pairs: dict[int, tuple[Tensor, Tensor]] = {}
        exits = output.exits
        self.leaves = replace(
            output,
            logits=self._leaf(output.logits),
            margins=self._leaf(output.margins),
            logit_margins=self._leaf(output.logit_margins),
            decisions=output.decisions.clone(),
            exits=None if exits is None else self._leaf(exits),
        )

    def gradient(
        self,
        total: Tensor,
        inputs: Tensor,
        through: contextlib.AbstractContextManager[None],
        *,
        keep: bool,
    ) -> Tensor | None:
        """The gradient of a number that was computed from the leaves.

        Args:
            total: () a sum of losses.
            inputs: (N, C, H, W) that the network was evaluated on.
            through: entered around the backward pass through the network.
            keep: whether another gradient follows.

        Returns:
            (N, C, H, W); None where `total` does not depend on `inputs`.
        """
        pairs = [pair for pair in self._pairs.values() if pair[1].requires_grad]
        if not pairs:
            return None
        leaves = [leaf for _, leaf in pairs]
        slopes = torch.autograd.grad(total, leaves, retain_graph=keep, allow_unused=True)
        live = [place for place, slope in enumerate(slopes) if slope is not None]
        if not live:
            return None
        with through:
            return _backward(
                [pairs[place][0] for place in live], [slopes[place] for place in live], inputs, keep
            )

    def _leaf(self, value: Tensor) -> Tensor:
        """A leaf of the same values; one tensor under two names has one leaf, as it has one
        gradient."""
        if id(value) not in self._pairs:
            leaf = value.detach().requires_grad_(value.requires_grad)
            self._pairs[id(value)] = (value, leaf)
        return self._pairs[id(value)][1]


def _backward(
    values: list[Tensor], slopes: list[Tensor], inputs: Tensor, keep: bool
) -> Tensor | None:
    """The gradient that `slopes` at `values` come to at `inputs`; None where there is no way.

    `torch.autograd.grad` does the same after it has imported torch's compiler, which it asks
    whether values and slopes have one shape.
    """
    found: Sequence[Tensor | None] = torch.autograd.graph._engine_run_backward(
        tuple(values), tuple(slopes), keep, False, (inputs,), True, accumulate_grad=False
    )
    return found[0]
