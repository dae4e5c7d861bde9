"""SkipNet as its authors' description and checkpoints have it, written plainly and on its own: the
oracle for targets.skipnet.

Every block and every gate is evaluated for every image and multiplied by its mask, projections run
twice, the LSTM is torch's, pooling has a fixed size, and inputs arrive normalised.
"""

import torch
from torch import nn

FAMILIES = {
    "cifar": {"widths": [16, 32, 64], "sizes": [32, 16, 8], "classes": 10},
    "imagenet": {"widths": [64, 128, 256, 512], "sizes": [56, 28, 14, 7], "classes": 1000},
}


class Residual(nn.Module):
    def __init__(self, before, width, stride, project, deep):
        super().__init__()
        shapes = [(before, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1)]
        if not deep:
            shapes = [(before, width, 3, stride), (width, width, 3, 1)]
        for number, (inputs, outputs, kernel, step) in enumerate(shapes, 1):
            setattr(
                self,
                f"conv{number}",
                nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False),
            )
            setattr(self, f"bn{number}", nn.BatchNorm2d(outputs))
        self.count = len(shapes)
        after = shapes[-1][1]
        self.downsample = (
            nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
            if project
            else None
        )

    def forward(self, x):
        out = x
        for number in range(1, self.count + 1):
            out = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(out))
            if number < self.count:
                out = torch.relu(out)
        return torch.relu(out + (x if self.downsample is None else self.downsample(x)))


class ConvGate(nn.Module):
    def __init__(self, channels, size, two):
        super().__init__()
        self.maxpool = nn.MaxPool2d(2) if two else None
        self.conv1 = nn.Conv2d(channels, channels, 3, 1 if two else 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        if two:
            self.conv2 = nn.Conv2d(channels, channels, 3, 2, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(channels)
        self.pool = nn.AvgPool2d(size // 4 if two else size // 2)
        self.linear_layer = nn.Conv2d(channels, 2, 1)

    def forward(self, x):
        if self.maxpool is not None:
            x = self.maxpool(x)
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.maxpool is not None:
            x = torch.relu(self.bn2(self.conv2(x)))
        return torch.softmax(self.linear_layer(self.pool(x))[:, :, 0, 0], 1)[:, 1]


class Control(nn.Module):
    def __init__(self, family):
        super().__init__()
        self.rnn = nn.LSTM(10, 10)
        self.proj = nn.Linear(10, 1) if family == "cifar" else nn.Conv2d(10, 1, 1)

    def forward(self, feature, hidden):
        out, hidden = self.rnn(feature.view(1, len(feature), 10), hidden)
        out = out[0] if isinstance(self.proj, nn.Linear) else out[0][:, :, None, None]
        return torch.sigmoid(self.proj(out).view(-1)), hidden


class Original(nn.Module):
    """(logits, G (N, U+1 or U), masks (N, U)) of normalised images; `form` says how masks pass
    gradients."""

    def __init__(self, family, counts, gate, form, deep=False, classes=None):
        super().__init__()
        shape = FAMILIES[family]
        self.counts, self.gate, self.form, self.family = counts, gate, form, family
        before = shape["widths"][0]
        self.conv1 = (
            nn.Conv2d(3, before, 3, 1, 1, bias=False)
            if family == "cifar"
            else nn.Conv2d(3, before, 7, 2, 3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(before)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for group, (count, width, size) in enumerate(
            zip(counts, shape["widths"], shape["sizes"], strict=True), 1
        ):
            for index in range(count):
                stride, after = 2 if group > 1 and index == 0 else 1, width * (4 if deep else 1)
                block = Residual(before, width, stride, stride != 1 or before != after, deep)
                setattr(self, f"group{group}_ds{index}", block.downsample)
                setattr(self, f"group{group}_layer{index}", block)
                made = (
                    nn.Sequential(nn.AvgPool2d(size), nn.Conv2d(after, 10, 1))
                    if gate == "rnn"
                    else ConvGate(after, size, gate == "ff1")
                )
                setattr(self, f"group{group}_gate{index}", made)
                before = after
        if gate == "rnn":
            self.control = Control(family)
        self.avgpool = nn.AvgPool2d(shape["sizes"][-1])
        self.fc = nn.Linear(before, classes or shape["classes"])

    def decide(self, group, index, x, hidden):
        feature = getattr(self, f"group{group}_gate{index}")(x)
        p, hidden = self.control(feature, hidden) if self.gate == "rnn" else (feature, None)
        hard = (p > 0.5).to(p.dtype)
        return (
            (hard if self.form == "hrl" else hard.detach() - p.detach() + p)[:, None, None, None],
            p,
            hidden,
        )

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        if self.family == "imagenet":
            x = self.maxpool(x)
        x = self.group1_layer0(x)
        zero = x.new_zeros(1, len(x), 10)
        mask, p, hidden = self.decide(1, 0, x, (zero, zero))
        values, masks = [p], [mask.view(-1)]
        for group, count in enumerate(self.counts, 1):
            for index in range(count):
                if (group, index) == (1, 0):
                    continue
                project = getattr(self, f"group{group}_ds{index}")
                by = x if project is None else project(x)
                x = mask * getattr(self, f"group{group}_layer{index}")(x) + (1 - mask) * by
                mask, p, hidden = self.decide(group, index, x, hidden)
                values.append(p)
                masks.append(mask.view(-1))
        logits = self.fc(self.avgpool(x).flatten(1))
        return logits, torch.stack(values, 1), torch.stack(masks[:-1], 1)


def randomise(net, seed=0):
    """Weights and statistics that are nobody's default, so that every one of them matters; gates
    open about half the time."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.copy_(
                    0.1 * torch.randn(module.num_features, generator=generator)
                )
                module.running_var.copy_(0.5 + torch.rand(module.num_features, generator=generator))
                module.weight.copy_(
                    0.3 + 0.4 * torch.rand(module.num_features, generator=generator)
                )
                module.bias.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            elif isinstance(module, (nn.Conv2d, nn.Linear)):
                fan = module.weight[0].numel()
                module.weight.copy_(
                    torch.randn(module.weight.shape, generator=generator) * (1.5 / fan) ** 0.5
                )
                if module.bias is not None:
                    module.bias.copy_(torch.randn(module.bias.shape, generator=generator) * 0.5)
            elif isinstance(module, nn.LSTM):
                for parameter in module.parameters():
                    parameter.copy_(torch.randn(parameter.shape, generator=generator))
        if (
            net.gate == "rnn"
        ):  # a projection without bias and of some weight, so that the gates differ
            net.control.proj.weight.mul_(6)
            net.control.proj.bias.copy_(0.1 * torch.randn(1, generator=generator))
    return net.eval()


def checkpoint(net):
    """What the authors' code saves: a wrapper, `module.` in front, no num_batches_tracked (their
    torch had none)."""
    state = {
        f"module.{name}": value
        for name, value in net.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    return {"iter": 64000, "arch": "some_skipnet", "state_dict": state, "best_prec1": 93.3}
