"""The authors' SACT network written again, in plain functions over their own variable names: the
oracle of the import.

Dense maps, one image at a time where that is simpler, TensorFlow's padding from its definition,
float64. CIFAR only.
"""

import math

import torch
import torch.nn.functional as F


def variables(units, halting=True, seed=0, scale=1.0):
    """Synthetic variables in the layout of the released CIFAR checkpoints: name -> float64 tensor,
    kernels HWIO."""
    generator = torch.Generator().manual_seed(seed)
    made = {}

    def draw(*shape, spread=1.0, middle=0.0):
        return torch.randn(shape, generator=generator, dtype=torch.float64) * spread + middle

    def kernel(name, size, inputs, outputs, bias, middle=0.0):
        made[f"{name}/weights"] = draw(
            size, size, inputs, outputs, spread=(2 / (size * size * inputs)) ** 0.5
        )
        if bias:
            made[f"{name}/biases"] = draw(outputs, spread=0.1, middle=middle)

    def norm(name, channels):
        made[f"{name}/gamma"] = draw(channels, spread=0.1, middle=1.0)
        made[f"{name}/beta"] = draw(channels, spread=0.1)
        made[f"{name}/moving_mean"] = draw(channels, spread=0.1)
        made[f"{name}/moving_variance"] = draw(channels, spread=0.1).abs() + 0.8

    kernel("resnet_residual/Conv", 3, 3, 16, True)
    channels = 16
    for block, width in enumerate((16, 32, 64), start=1):
        for unit in range(1, units + 1):
            at = f"resnet_residual/block_{block}/unit_{unit}"
            norm(f"{at}/residual/preact", channels)
            kernel(f"{at}/residual/conv1", 3, channels, width, False)
            norm(f"{at}/residual/conv1/BatchNorm", width)
            kernel(f"{at}/residual/conv2", 3, width, width, True)
            channels = width
            if halting and unit < units:
                norm(f"{at}/halting_proba/local_bn", width)
                kernel(f"{at}/halting_proba/local_conv", 3, width, 1, True, middle=0.5)
                norm(f"{at}/halting_proba/global_bn", width)
                kernel(f"{at}/halting_proba/global_conv", 1, width, 1, False)
                made[f"{at}/halting_proba/local_conv/weights"] *= 2 * scale
    norm("BatchNorm", 64)
    kernel("logits", 1, 64, 10, True)
    return {
        name: value.float().double() for name, value in made.items()
    }  # checkpoints hold single precision


def same(x, kernel, stride, bias=None):
    """A convolution with padding "SAME": ceil(size / stride) outputs, the smaller half of the
    padding in front."""
    size = kernel.shape[0]
    pads = []
    for extent in (x.shape[3], x.shape[2]):
        total = max((math.ceil(extent / stride) - 1) * stride + size - extent, 0)
        pads += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, pads), kernel.permute(3, 2, 0, 1), bias, stride)


class OriginalSACT:
    """Forward pass of the original; `never` switches halting off by letting every position run to
    the last unit."""

    def __init__(self, made, never=False):
        self.made, self.never = made, never
        self.units = max(
            int(name.split("unit_")[1].split("/")[0]) for name in made if "unit_" in name
        )

    def norm(self, x, name, active=True):
        made = self.made
        mean, variance = (
            made[f"{name}/moving_{what}"].view(1, -1, 1, 1) for what in ("mean", "variance")
        )
        y = (x - mean) / (variance + 1e-3).sqrt() * made[f"{name}/gamma"].view(1, -1, 1, 1) + made[
            f"{name}/beta"
        ].view(1, -1, 1, 1)
        return self.act(y) if active else y

    def act(self, x):
        return torch.where(x > 0, x, 0.1 * x)

    def residual(self, x, block, unit, ready):
        at, made = f"resnet_residual/block_{block}/unit_{unit}/residual", self.made
        y = same(ready, made[f"{at}/conv1/weights"], 2 if block > 1 and unit == 1 else 1)
        y = self.act(self.norm(y, f"{at}/conv1/BatchNorm"))
        return same(y, made[f"{at}/conv2/weights"], 1, made[f"{at}/conv2/biases"])

    def unit(self, x, block, unit):
        ready = self.norm(x, f"resnet_residual/block_{block}/unit_{unit}/residual/preact")
        shortcut = ready if block == unit == 1 else x
        y = self.residual(x, block, unit, ready)
        if shortcut.shape[1] != y.shape[1]:
            n, c, h, w = shortcut.shape
            shortcut = shortcut.view(n, c, h // 2, 2, w // 2, 2).mean((3, 5))
            wide = torch.zeros_like(y)
            front = (y.shape[1] - c) // 2
            wide[:, front : front + c] = shortcut
            shortcut = wide
        return shortcut + y

    def score(self, x, block, unit):
        at, made = f"resnet_residual/block_{block}/unit_{unit}/halting_proba", self.made
        local = same(
            self.norm(x, f"{at}/local_bn"),
            made[f"{at}/local_conv/weights"],
            1,
            made[f"{at}/local_conv/biases"],
        )
        mean = x.mean((2, 3), keepdim=True)
        return torch.sigmoid(
            local + same(self.norm(mean, f"{at}/global_bn"), made[f"{at}/global_conv/weights"], 1)
        )[:, 0]

    def block(self, x, block):
        """(weighted state, list of (N, H, W) bool: where units 2, 3 … ran, (N, H, W) N + R)."""
        x = self.unit(x, block, 1)
        count, _, height, width = x.shape
        finished = torch.zeros((count, height, width), dtype=torch.bool)
        summed = torch.zeros((count, height, width), dtype=x.dtype)
        output, ponder, ran = torch.zeros_like(x), torch.zeros_like(summed), []
        for unit in range(1, self.units + 1):
            if unit > 1:
                x = torch.where(finished[:, None], x, self.unit(x, block, unit))
                ran.append(~finished)
            h = self.score(x, block, unit) if unit < self.units else torch.ones_like(summed)
            stops = ~finished & (
                (summed + h >= 0.99) if not self.never else torch.tensor(unit == self.units)
            )
            goes = ~finished & ~stops
            weight = torch.where(stops, 1 - summed, torch.where(goes, h, torch.zeros_like(h)))
            output = output + weight[:, None] * x
            ponder = (
                ponder
                + torch.where(~finished, 1.0, 0.0)
                + torch.where(stops, 1 - summed, torch.zeros_like(h))
            )
            summed = torch.where(goes, summed + h, summed)
            finished = finished | stops
        return output, ran, ponder

    def __call__(self, images):
        """((N, K) logits, per block the maps of units 2 …, per block N + R)."""
        count = images[0].numel()
        mean = images.mean((1, 2, 3), keepdim=True)
        deviation = (
            ((images - mean) ** 2).mean((1, 2, 3), keepdim=True).sqrt().clamp(min=count**-0.5)
        )
        x = same(
            (images - mean) / deviation,
            self.made["resnet_residual/Conv/weights"],
            1,
            self.made["resnet_residual/Conv/biases"],
        )
        maps, ponders = [], []
        for block in (1, 2, 3):
            if any("halting_proba" in name for name in self.made):
                x, ran, ponder = self.block(x, block)
                maps.append(ran)
                ponders.append(ponder)
            else:
                for unit in range(1, self.units + 1):
                    x = self.unit(x, block, unit)
        pooled = self.norm(x.mean((2, 3), keepdim=True), "BatchNorm")
        return (
            same(pooled, self.made["logits/weights"], 1, self.made["logits/biases"])[:, :, 0, 0],
            maps,
            ponders,
        )
