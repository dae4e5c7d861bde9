"""SkipNet's gates: a recurrent one shared by all blocks, and two feed-forward ones of a block each.

Every gate ends in a logit; the gate value is G = sigmoid(logit) and the block runs when G > 0.5.
The feed-forward gates end in two logits whose softmax's second entry is G, which is the sigmoid of
their difference.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = tuple[Tensor, Tensor]
"""(h, c) of the recurrent gate, each (N, hidden)."""


class LSTMCell(nn.Module):
    """One step of a single-layer LSTM, under `nn.LSTM`'s parameter names (gates in the order i, f,
    g, o).

    Spelled out in matrix products because ptflops counts nothing inside `nn.LSTM`, and because the
    fused CUDA cell would hide its biases.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih_l0 = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh_l0 = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias_ih_l0 = nn.Parameter(torch.empty(4 * hidden))
        self.bias_hh_l0 = nn.Parameter(torch.empty(4 * hidden))
        self.hidden = hidden
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x: Tensor, state: State | None) -> State:
        """The next (h, c) from x (N, inputs); without a state, from zeros."""
        if state is None:
            zero = x.new_zeros(len(x), self.hidden)
            state = zero, zero
        h, c = state
        gates = F.linear(x, self.weight_ih_l0, self.bias_ih_l0) + F.linear(
            h, self.weight_hh_l0, self.bias_hh_l0
        )
        i, f, _, o = gates.sigmoid().chunk(4, 1)
        g = gates[:, 2 * self.hidden : 3 * self.hidden].tanh()
        c = f * c + i * g
        return o * c.tanh(), c


class RecurrentControl(nn.Module):
    """The shared half of the recurrent gate: embedding -> LSTM -> one logit."""

    def __init__(self, embed_dim: int = 10, hidden_dim: int = 10) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.rnn = LSTMCell(embed_dim, hidden_dim)
        self.proj = nn.Linear(hidden_dim, 1)

    def forward(self, embedding: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """((N,) logit, next state) from the embedding (N, embed_dim) of a block's features."""
        state = self.rnn(embedding, state)
        return self.proj(state[0]).squeeze(1), state


class Embedding(nn.Module):
    """A block's half of the recurrent gate: average over the whole map, then a 1x1 convolution with
    bias, held as module "1"."""

    def __init__(self, channels: int, embed_dim: int = 10) -> None:
        super().__init__()
        self.add_module("1", nn.Conv2d(channels, embed_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, embed_dim) from features (N, C, H, W)."""
        convolution = getattr(self, "1")
        return F.linear(average(x), convolution.weight.flatten(1), convolution.bias)


def average(x: Tensor) -> Tensor:
    """(N, C), the average of each channel of (N, C, H, W); divided after the sum, so that its
    gradient need not be written out."""
    return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


class FeedForwardGate(nn.Module):
    """A small convolutional network on the block's features that ends in two logits; what the two
    designs share."""

    strides: tuple[int, ...]

    def __init__(self, channels: int) -> None:
        super().__init__()
        for index, stride in enumerate(self.strides, start=1):
            self.add_module(f"conv{index}", nn.Conv2d(channels, channels, 3, stride, 1, bias=False))
            self.add_module(f"bn{index}", nn.BatchNorm2d(channels))
        self.linear_layer = nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N,) logit of running the next block: the difference of the two logits."""
        for index in range(1, len(self.strides) + 1):
            x = self.get_submodule(f"bn{index}")(self.get_submodule(f"conv{index}")(x)).relu_()
        pair = F.linear(average(x), self.linear_layer.weight.flatten(1), self.linear_layer.bias)
        return pair[:, 1] - pair[:, 0]


class FeedForwardGateI(FeedForwardGate):
    """FFGate-I: 2x2 max pooling, a 3x3 and a strided 3x3 convolution.

    Together they are about 15 % of a SkipNet-38.
    """

    strides = (1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N,) logit of running the next block."""
        return super().forward(F.max_pool2d(x, 2))


class FeedForwardGateII(FeedForwardGate):
    """FFGate-II: one strided 3x3 convolution (about 12 % of a SkipNet-110)."""

    strides = (2,)
