"""ConvNet-AIG written again from its rules, slowly: one image, one block at a time, for state
dictionaries in released names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {20: (3, 3, 3), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def random_state(depth: int, classes: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """A state in released names whose gates disagree with each other."""
    draw = torch.Generator().manual_seed(seed)
    counts = BLOCKS[depth]
    small, deep = len(counts) == 3, depth >= 50
    widths = (16, 32, 64) if small else (64, 128, 256, 512)
    state: dict[str, Tensor] = {}

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        state[f"{name}.weight"] = torch.randn(
            (outputs, inputs, size, size), generator=draw, dtype=torch.float64
        ) / (size * inputs**0.5)

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 0.5 + torch.rand(channels, generator=draw, dtype=torch.float64)
        state[f"{name}.running_var"] = 0.5 + torch.rand(
            channels, generator=draw, dtype=torch.float64
        )
        for leaf in ("bias", "running_mean"):
            state[f"{name}.{leaf}"] = 0.2 * torch.randn(
                channels, generator=draw, dtype=torch.float64
            )

    conv("conv1", widths[0], 3, 3 if small else 7)
    norm("bn1", widths[0])
    inputs = widths[0]
    for group, (count, width) in enumerate(zip(counts, widths, strict=True), start=1):
        for index in range(count):
            at, wide = f"layer{group}.{index}", width * (4 if deep else 1)
            shapes = (
                [(width, inputs, 1), (width, width, 3), (wide, width, 1)]
                if deep
                else [(width, inputs, 3), (width, width, 3)]
            )
            for number, shape in enumerate(shapes, start=1):
                conv(f"{at}.conv{number}", *shape)
                norm(f"{at}.bn{number}", shape[0])
            if inputs != wide or (group > 1 and index == 0):
                conv(f"{at}.shortcut.0", wide, inputs, 1)
                norm(f"{at}.shortcut.1", wide)
            conv(f"{at}.fc1", 16, inputs, 1)
            norm(f"{at}.fc1bn", 16)
            conv(f"{at}.fc2", 2, 16, 1)
            state[f"{at}.fc2.weight"] *= 6
            for piece, size in (("fc1", 16), ("fc2", 2)):
                state[f"{at}.{piece}.bias"] = torch.randn(size, generator=draw, dtype=torch.float64)
            inputs = wide
    state["linear.weight"] = torch.randn((classes, inputs), generator=draw, dtype=torch.float64)
    state["linear.bias"] = torch.randn(classes, generator=draw, dtype=torch.float64)
    return state


class Original:
    """A released state, evaluated on one normalized image at a time.

    Args:
        state: in released names.
        depth: of the network.
    """

    def __init__(self, state: dict[str, Tensor], depth: int) -> None:
        self.state, self.counts = state, BLOCKS[depth]
        self.small, self.deep = len(self.counts) == 3, depth >= 50

    def __call__(
        self, image: Tensor, gumbel: list[tuple[float, float]] | None = None
    ) -> tuple[Tensor, list[Tensor], list[bool]]:
        """((K,) logits, each gate's pair of logits, whether each block ran).

        Args:
            image: (3, H, W), normalized.
            gumbel: noise added to each gate's two logits.
        """
        x = self._norm("bn1", self._conv("conv1", image, 1 if self.small else 2)).relu()
        if not self.small:
            x = F.max_pool2d(x[None], 3, 2, 1)[0]
        pairs, ran = [], []
        for group, count in enumerate(self.counts, start=1):
            for index in range(count):
                at, stride = f"layer{group}.{index}", 2 if group > 1 and index == 0 else 1
                pair = self._gate(at, x)
                if gumbel is not None:
                    pair = pair + torch.tensor(gumbel[len(pairs)], dtype=torch.float64)
                hard = torch.zeros(2, dtype=torch.float64)
                hard[int(pair.argmax())] = 1
                soft = pair.exp() / pair.exp().sum()
                weight = (hard - soft).detach() + soft  # straight-through
                by = x
                if f"{at}.shortcut.0.weight" in self.state:
                    by = self._norm(f"{at}.shortcut.1", self._conv(f"{at}.shortcut.0", x, stride))
                x = (by + weight[1] * self._residual(at, x, stride)).relu()
                pairs.append(pair)
                ran.append(bool(hard[1]))
        mean = x.mean((1, 2))
        return self.state["linear.weight"] @ mean + self.state["linear.bias"], pairs, ran

    def _residual(self, at: str, x: Tensor, stride: int) -> Tensor:
        if self.deep:
            x = self._norm(f"{at}.bn1", self._conv(f"{at}.conv1", x, 1)).relu()
            x = self._norm(f"{at}.bn2", self._conv(f"{at}.conv2", x, stride)).relu()
            return self._norm(f"{at}.bn3", self._conv(f"{at}.conv3", x, 1))
        x = self._norm(f"{at}.bn1", self._conv(f"{at}.conv1", x, stride)).relu()
        return self._norm(f"{at}.bn2", self._conv(f"{at}.conv2", x, 1))

    def _gate(self, at: str, x: Tensor) -> Tensor:
        x = self._conv(f"{at}.fc1", x.mean((1, 2), keepdim=True), 1)
        x = x + self.state[f"{at}.fc1.bias"][:, None, None]
        x = self._norm(f"{at}.fc1bn", x).relu()
        x = self._conv(f"{at}.fc2", x, 1)
        return x[:, 0, 0] + self.state[f"{at}.fc2.bias"]

    def _conv(self, name: str, x: Tensor, stride: int) -> Tensor:
        weight = self.state[f"{name}.weight"]
        return F.conv2d(x[None], weight, None, stride, weight.shape[2] // 2)[0]

    def _norm(self, name: str, x: Tensor) -> Tensor:
        value = {
            leaf: self.state[f"{name}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        }
        centred = (x - value["running_mean"]) / (value["running_var"] + 1e-5).sqrt()
        return centred * value["weight"] + value["bias"]
