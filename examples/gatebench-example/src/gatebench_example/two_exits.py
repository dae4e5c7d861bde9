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
        self.first = (
            16 * 16 * (3 * 9 * 16 + 16) + 16 * 10 + 10
        )  # MACs of what always runs, biases included
        self.second = 8 * 8 * (16 * 9 * 32 + 32) + 32 * 10 + 10  # and of what the exit saves
        self.units = Units.gated(
            ["second half"], ["exits"], [self.second], kind="exit", threshold=1 - confidence
        )

    def forward(self, images, decisions=None):
        return self.walk(images, decisions, always=True)

    def execute(self, image, decisions=None):
        return self.walk(image, decisions, always=False)

    def walk(self, images, decisions, always):
        x = self.early(images - 0.5)
        logits = self.exit1(x.mean((2, 3)))
        margins = self.confidence - logits.softmax(1).amax(1, keepdim=True)
        runs = margins > 0 if decisions is None else decisions
        if always or bool(runs):
            logits = torch.where(runs, self.exit2(self.late(x).mean((2, 3))), logits)
        return Output(logits, margins, margins, runs)

    def macs(self, decisions):
        return self.first + self.second * decisions.sum(1)
