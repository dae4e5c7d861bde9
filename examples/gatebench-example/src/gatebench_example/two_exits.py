"""A network with an early exit: the smallest target that leaves real work out."""

import torch
from torch import nn

from bench.api import Output, Target, Units


class TwoExits(Target):
    """A small network that stops at its first exit when that is confident enough (early exit)."""

    def __init__(self, *, confidence: float = 0.11):
        super().__init__()
        self.image_shape, self.classes, self.confidence = (3, 32, 32), 10, confidence
        self.early = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU())
        self.exit1, self.exit2 = nn.Linear(16, 10), nn.Linear(32, 10)
        self.first = 16 * 16 * (3 * 9 * 16 + 16) + 16 * 10 + 10  # MACs of what always runs, biases included
        self.second = 8 * 8 * (16 * 9 * 32 + 32) + 32 * 10 + 10  # and of what the exit saves
        one = torch.ones(1, dtype=torch.float64)
        self.units = Units(
            name=("second half",), kind=("exit",), owner=("exits",), shape=((),), cost=torch.tensor([self.second]),
            threshold=one * (1 - confidence), low=one * 0, high=one * 0.9, strict=torch.tensor([True]), after=torch.tensor([-1]),
        )  # fmt: skip

    def forward(self, images, decisions=None):
        x = self.early(images - 0.5)
        first = self.exit1(x.mean((2, 3)))
        margins = self.confidence - first.softmax(1).amax(1, keepdim=True)
        runs = margins > 0 if decisions is None else decisions
        second = self.exit2(self.late(x).mean((2, 3)))
        return Output(torch.where(runs, second, first), margins, margins, runs, torch.stack([first, second], 1))

    def execute(self, image, decisions=None):
        x = self.early(image - 0.5)
        first = self.exit1(x.mean((2, 3)))
        margins = self.confidence - first.softmax(1).amax(1, keepdim=True)
        runs = margins > 0 if decisions is None else decisions
        logits = self.exit2(self.late(x).mean((2, 3))) if bool(runs) else first
        return Output(logits, margins, margins, runs)

    def macs(self, decisions):
        return self.first + self.second * decisions.sum(1)
