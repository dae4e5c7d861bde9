"""Gates: the LSTM cell is torch's LSTM, the feed-forward gates are softmax gates, and their cost is
what it should be."""

import pytest
import torch
from torch import nn

from targets.pieces.counting import macs_of
from targets.skipnet.gates import (
    Embedding,
    FeedForwardGateI,
    FeedForwardGateII,
    LSTMCell,
    RecurrentControl,
)


def test_the_cell_is_torchs_lstm_step_by_step():
    torch.manual_seed(0)
    reference = nn.LSTM(10, 10).double()
    cell = LSTMCell(10, 10).double()
    cell.load_state_dict(reference.state_dict())
    inputs = torch.randn(7, 4, 10, dtype=torch.float64)
    expected, (h, c) = reference(inputs)
    state = None
    for step in range(7):
        state = cell(inputs[step], state)
        torch.testing.assert_close(state[0], expected[step])
    torch.testing.assert_close(state[0], h[0])
    torch.testing.assert_close(state[1], c[0])


@pytest.mark.parametrize("kind", [FeedForwardGateI, FeedForwardGateII])
def test_the_value_is_the_softmaxs(kind):
    torch.manual_seed(0)
    gate = kind(8).eval()
    x = torch.rand(5, 8, 16, 16)
    y = torch.relu(
        gate.bn1(
            gate.conv1(torch.nn.functional.max_pool2d(x, 2) if kind is FeedForwardGateI else x)
        )
    )
    if kind is FeedForwardGateI:
        y = torch.relu(gate.bn2(gate.conv2(y)))
    pair = gate.linear_layer(torch.nn.functional.avg_pool2d(y, y.shape[-1])).flatten(1)
    torch.testing.assert_close(gate(x).sigmoid(), pair.softmax(1)[:, 1])
    assert gate(x).shape == (5,)


def test_macs_by_hand():
    # FFGate-I on 16 channels at 32 pixels: 16x16 after pooling, 8x8 after the stride; two logits
    # with bias
    assert (
        macs_of(FeedForwardGateI(16), (16, 32, 32)) == 16 * 16 * 9 * (16 * 16 + 8 * 8) + 2 * 16 + 2
    )
    assert macs_of(FeedForwardGateII(16), (16, 32, 32)) == 16 * 16 * 9 * (16 * 16) + 2 * 16 + 2
    assert macs_of(Embedding(64), (64, 8, 8)) == 64 * 10 + 10
    # two products 10 -> 40 with bias, and the projection
    assert macs_of(RecurrentControl(), (10,)) == 2 * (10 * 40 + 40) + 10 + 1


def test_the_state_goes_in_and_comes_out():
    torch.manual_seed(0)
    control = RecurrentControl()
    feature = torch.rand(3, 10)
    first, state = control(feature)
    again, _ = control(feature)
    later, _ = control(feature, state)
    assert torch.equal(first, again), "nothing is kept in the module"
    assert not torch.allclose(first, later)
