"""DynConv written again from its rules, slowly: one image, one block, one position at a time, for
state dictionaries in released names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCKS = {14: (2, 2, 2), 18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def random_state(depth: int, classes: int = 10, seed: int = 0) -> dict[str, Tensor]:
    """A state in released names whose masks have holes."""
    draw = torch.Generator().manual_seed(seed)
    counts = BLOCKS[depth]
    small, deep = len(counts) == 3, depth >= 50
    widths = (16, 32, 64) if small else (64, 128, 256, 512)
    state: dict[str, Tensor] = {}

    def normal(*shape: int, scale: float) -> Tensor:
        return torch.randn(shape, generator=draw, dtype=torch.float64) * scale

    def conv(name: str, outputs: int, inputs: int, size: int) -> None:
        scale = 1 / (size * inputs**0.5)
        state[f"{name}.weight"] = normal(outputs, inputs, size, size, scale=scale)

    def norm(name: str, channels: int) -> None:
        state[f"{name}.weight"] = 1 + normal(channels, scale=0.1)
        state[f"{name}.running_var"] = 0.8 + normal(channels, scale=0.1).abs()
        state[f"{name}.bias"] = normal(channels, scale=0.2)
        state[f"{name}.running_mean"] = normal(channels, scale=0.2)

    conv("conv1", widths[0], 3, 3 if small else 7)
    norm("bn1", widths[0])
    inputs = widths[0]
    for group, (count, width) in enumerate(zip(counts, widths, strict=True), start=1):
        for index in range(count):
            at, wide = f"layer{group}.{index}", width * (4 if deep else 1)
            sizes = [(inputs, width, 3), (width, width, 3)]
            if deep:
                sizes = [(inputs, width, 1), (width, width, 3), (width, wide, 1)]
            for number, (come, go, size) in enumerate(sizes, start=1):
                conv(f"{at}.conv{number}", go, come, size)
                norm(f"{at}.bn{number}", go)
            if inputs != wide or (group > 1 and index == 0):
                conv(f"{at}.downsample.0", wide, inputs, 1)
                norm(f"{at}.downsample.1", wide)
            conv(f"{at}.masker.maskconv.conv", 1, inputs, 3)
            state[f"{at}.masker.maskconv.conv.bias"] = normal(1, scale=0.3)
            state[f"{at}.masker.maskconv.fc.weight"] = normal(1, inputs, scale=0.3 * inputs**-0.5)
            state[f"{at}.masker.maskconv.fc.bias"] = normal(1, scale=0.3)
            inputs = wide
    state["fc.weight"] = normal(classes, inputs, scale=1.0)
    state["fc.bias"] = normal(classes, scale=1.0)
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

    def __call__(self, image: Tensor) -> tuple[Tensor, list[Tensor], int]:
        """((K,) logits, each mask's (H', W') logits, MACs of the blocks' convolutions).

        Args:
            image: (3, H, W), normalized.
        """
        x = self._norm("bn1", self._conv("conv1", image, 1 if self.small else 2)).relu()
        if not self.small:
            x = F.max_pool2d(x[None], 3, 2, 1)[0]
        maps, macs = [], 0
        for group, count in enumerate(self.counts, start=1):
            for index in range(count):
                at, stride = f"layer{group}.{index}", 2 if group > 1 and index == 0 else 1
                mask = self._mask(at, x, stride)
                by = x
                if f"{at}.downsample.0.weight" in self.state:
                    by = self._norm(
                        f"{at}.downsample.1", self._conv(f"{at}.downsample.0", x, stride)
                    )
                extra = torch.zeros_like(by)
                whole = self._residual(at, x, stride)
                active = [(int(y), int(z)) for y, z in (mask >= 0).nonzero()]
                for y, z in active:
                    extra[:, y, z] = whole[:, y, z]
                macs += self._cost(at, active, mask.shape[0], stride)
                x = (by + extra).relu()
                maps.append(mask)
        return self.state["fc.weight"] @ x.mean((1, 2)) + self.state["fc.bias"], maps, macs

    def _cost(self, at: str, active: list[tuple[int, int]], size: int, stride: int) -> int:
        """MACs at the active positions, the first convolution where a 3x3 window reads."""
        step = stride if self.deep else 1
        read = {
            (step * y + dy, step * z + dz)
            for y, z in active
            for dy in (-1, 0, 1)
            for dz in (-1, 0, 1)
            if 0 <= step * y + dy < step * size and 0 <= step * z + dz < step * size
        }
        first, *others = (
            self.state[f"{at}.conv{number}.weight"].numel()
            for number in range(1, 4 if self.deep else 3)
        )
        return len(read) * first + len(active) * sum(others)

    def _residual(self, at: str, x: Tensor, stride: int) -> Tensor:
        if self.deep:
            x = self._norm(f"{at}.bn1", self._conv(f"{at}.conv1", x, 1)).relu()
            x = self._norm(f"{at}.bn2", self._conv(f"{at}.conv2", x, stride)).relu()
            return self._norm(f"{at}.bn3", self._conv(f"{at}.conv3", x, 1))
        x = self._norm(f"{at}.bn1", self._conv(f"{at}.conv1", x, stride)).relu()
        return self._norm(f"{at}.bn2", self._conv(f"{at}.conv2", x, 1))

    def _mask(self, at: str, x: Tensor, stride: int) -> Tensor:
        at = f"{at}.masker.maskconv"
        whole = self.state[f"{at}.fc.weight"][0] @ x.mean((1, 2)) + self.state[f"{at}.fc.bias"]
        local = self._conv(f"{at}.conv", x, stride)[0] + self.state[f"{at}.conv.bias"]
        return local + whole

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
