"""Small gated targets with margins known by hand, and what the tests of attacks share."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Evaluation, Job, Output, Target, Threat, Units
from bench.evaluation.view import TargetView

NONE = Threat("none", Fraction(0))
PSNR35 = Threat("psnr", Fraction(35))
LINF8 = Threat("linf", Fraction(8, 255))


class LinearGates(Target):
    """Gate j is sigmoid(<w_j, x> + b_j): margins whose gradients are known exactly.

    Block j costs (j + 1) * 100 MACs.
    """

    def __init__(self, weight: Tensor, bias: Tensor, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        count = len(bias)
        self.register_buffer("weight", weight.reshape(count, -1))
        self.register_buffer("bias", bias)
        names = [f"gate{j}" for j in range(count)]
        self.units = Units.gated(names, names, [100 * (j + 1) for j in range(count)])
        self.image_shape, self.classes = image_shape, 2

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        logit = images.flatten(1) @ self.weight.T + self.bias
        margins = logit.sigmoid() - 0.5
        taken = margins.detach() > 0 if decisions is None else decisions
        scores = torch.stack([images.flatten(1).mean(1), images.flatten(1).square().mean(1)], 1)
        return Output(scores, margins, logit, taken)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        return self.forward(image, decisions)

    def macs(self, decisions: Tensor) -> Tensor:
        return 10 + (decisions.to(torch.int64) * self.units.cost.to(decisions.device)).sum(1)


class ConvGates(Target):
    """Six residual convolutions on 3x16x16, each behind a gate that reads the features in front of
    it; random weights.
    """

    forks = True

    def __init__(self, seed: int = 0, mask_grad: str = "none", units: int = 6) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.stem = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = torch.nn.ModuleList(torch.nn.Conv2d(8, 8, 3, padding=1) for _ in range(units))
        self.gates = torch.nn.ModuleList(torch.nn.Linear(8 * 16, 1) for _ in range(units))
        self.fc = torch.nn.Linear(8, 10)
        with torch.no_grad():
            for weight in self.parameters():
                fan = weight[0].numel() if weight.ndim > 1 else 100
                weight.copy_(torch.randn(weight.shape, generator=draw) / fan**0.5)
            for gate in self.gates:
                gate.weight.mul_(3.0)
        names = [f"block{j}" for j in range(units)]
        self.units = Units.gated(names, names, [8 * 8 * 9 * 256] * units)
        self.image_shape, self.classes = (3, 16, 16), 10
        self.evaluation = Evaluation(mask_grad=mask_grad)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        x = self.stem((images - 0.5) * 4).relu()
        logits, taken = [], []
        for unit, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            x, seen = self.fork(x, unit)
            logit = gate(F.adaptive_avg_pool2d(seen, 4).flatten(1)).squeeze(1) - 0.4
            value = logit.sigmoid()
            run = value.detach() > 0.5 if decisions is None else decisions[:, unit]
            mask = run.to(x.dtype)
            if self.evaluation.mask_grad == "ste":
                mask = mask + value - value.detach()
            x = x + mask[:, None, None, None] * block(x).relu()
            logits.append(logit)
            taken.append(run)
        empty = images.new_zeros(len(images), 0)
        logit = torch.stack(logits, 1) if logits else empty
        run = torch.stack(taken, 1) if taken else empty.bool()
        return Output(self.fc(x.mean((2, 3))), logit.sigmoid() - 0.5, logit, run)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        return self.forward(image, decisions)

    def macs(self, decisions: Tensor) -> Tensor:
        return 1000 + (decisions.to(torch.int64) * self.units.cost.to(decisions.device)).sum(1)


class Exits(Target):
    """Three small stages with an exit behind each: margins are those of confidence, as in a
    shallow-deep network.
    """

    def __init__(self, seed: int = 0, confidence: float = 0.6) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(seed)
        self.stages = torch.nn.ModuleList(torch.nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.heads = torch.nn.ModuleList(torch.nn.Linear(8 * 16, 10) for _ in range(3))
        with torch.no_grad():
            for weight in self.parameters():
                fan = weight[0].numel() if weight.ndim > 1 else 100
                weight.copy_(2.0 * torch.randn(weight.shape, generator=draw) / fan**0.5)
        self.units = replace(
            Units.gated(
                ["behind0", "behind1"],
                ["behind0", "behind1"],
                [5000, 5000],
                kind="exit",
                threshold=1 - confidence,
            ),
            after=torch.tensor([-1, 0]),
        )
        self.image_shape, self.classes, self.confidence = (3, 16, 16), 10, confidence

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        x, found = (images - 0.5) * 4, []
        for stage, head in zip(self.stages, self.heads, strict=True):
            x = stage(x).relu()
            found.append(head(F.adaptive_avg_pool2d(x, 4).flatten(1)))
        exits = torch.stack(found, 1)
        margins = self.confidence - exits[:, :2].softmax(-1).amax(-1)
        runs = (margins.detach() > 0 if decisions is None else decisions).long().cumprod(1) > 0
        return Output(exits[torch.arange(len(x)), runs.sum(1)], margins, margins, runs, exits)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        return self.forward(image, decisions)

    def macs(self, decisions: Tensor) -> Tensor:
        return 1000 + 5000 * decisions.long().cumprod(1).sum(1)


class Halting(Target):
    """Four positions of a block of three gated units.

    Scores are sigmoids of the image's quarters, so everything is known by hand.
    """

    def __init__(self, bias: float = -2.0, limit: float = 0.99) -> None:
        super().__init__()
        names = [f"u{unit}.p{place}" for unit in range(3) for place in range(4)]
        owners = [f"u{unit}" for unit in range(3) for _ in range(4)]
        self.units = replace(
            Units.gated(names, owners, [100] * 12, kind="position"),
            shape=((2, 2),) * 12,
            threshold=torch.zeros(12, dtype=torch.float64),
            low=torch.full((12,), -torch.inf, dtype=torch.float64),
            high=torch.full((12,), limit, dtype=torch.float64),
            after=(torch.arange(12) - 4).clamp(min=-1),
        )
        self.image_shape, self.classes, self.bias, self.limit = (1, 4, 4), 2, bias, limit

    def scores(self, images: Tensor) -> Tensor:
        """(N, 3, 4): the score of each unit but the last at each position."""
        quarters = F.avg_pool2d(images, 2).flatten(1)
        return torch.stack(
            [(self.bias + factor * quarters).sigmoid() for factor in (4.0, 3.0, 2.0)], 1
        )

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        margins = (self.limit - self.scores(images).cumsum(1)).flatten(1)
        wanted = margins.detach() > 0 if decisions is None else decisions
        logits = torch.stack([images.flatten(1).mean(1), images.flatten(1).square().mean(1)], 1)
        return Output(logits, margins, margins, self.units.admissible(wanted))

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        return self.forward(image, decisions)

    def macs(self, decisions: Tensor) -> Tensor:
        return 10 + 100 * decisions.long().sum(1)


def frozen(target: Target) -> Target:
    """As the harness hands targets over: eval mode, no gradients for weights."""
    return target.eval().requires_grad_(False)


def pictures(count: int, shape: tuple[int, int, int] = (3, 16, 16), seed: int = 7) -> Tensor:
    """Smooth random images on the 8-bit grid."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.rand(
        (count, shape[0], max(shape[1] // 4, 1), max(shape[2] // 4, 1)), generator=draw
    )
    fine = F.interpolate(coarse, size=shape[1:], mode="bilinear") * 0.8 + 0.1
    return (fine * 255).round() / 255


def photographs(side: int = 224) -> Tensor:
    """Eight crops of scikit-learn's two photographs, (8, 3, side, side) on the 8-bit grid."""
    from sklearn.datasets import load_sample_images

    crops = []
    for picture in load_sample_images().images:
        whole = torch.from_numpy(picture.copy()).permute(2, 0, 1)
        height, width = whole.shape[1:]
        for top in (0, height - side):
            crops += [whole[:, top : top + side, left : left + side] for left in (0, width - side)]
    return torch.stack(crops).float() / 255


def begin(
    target: Target, images: Tensor, budget: int, threat: Threat = NONE, access: str = "gates"
) -> tuple[TargetView, Job]:
    """A view and a job for a batch."""
    ids = tuple(f"image{i}" for i in range(len(images)))
    return TargetView.of(target, images, budget, access), Job(threat, budget, ids)
