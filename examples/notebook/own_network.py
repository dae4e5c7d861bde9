"""A network of one's own: a plain torch module that skips its second half on easy images."""

import torch
from torch import nn

from bench.api import Output, Units


class EarlyExit(nn.Module):
    """Two convolutions with an exit each; the second runs where the first exit is not sure."""

    def __init__(self, confidence=0.35):
        super().__init__()
        self.image_shape, self.classes, self.confidence = (3, 32, 32), 10, confidence
        self.early = nn.Sequential(nn.Conv2d(3, 24, 4, stride=4), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.exit1, self.exit2 = nn.Linear(24 * 64, 10), nn.Linear(48 * 16, 10)
        self.first = 64 * (3 * 16 * 24 + 24) + 1536 * 10 + 10  # MACs of what always runs
        self.second = 64 * (24 * 9 * 48 + 48) + 768 * 10 + 10  # MACs of the second half
        self.units = Units.gated(
            ["second half"], ["exits"], [self.second], threshold=1 - confidence
        )

    def forward(self, images, decisions=None):
        return self.walk(images, decisions, always=True)

    def execute(self, image, decisions=None):
        return self.walk(image, decisions, always=False)

    def macs(self, decisions):
        return self.first + self.second * decisions.sum(1)

    def walk(self, images, decisions, always):
        x = self.early(images - 0.5)
        logits = self.exit1(x.flatten(1))
        margins = self.confidence - logits.softmax(1).amax(1, keepdim=True)
        runs = margins > 0 if decisions is None else decisions
        exits = [logits]
        if always or bool(runs):
            exits.append(self.exit2(self.late(x).flatten(1)))
            logits = torch.where(runs, exits[1], logits)
        return Output(logits, margins, margins, runs, torch.stack([*exits[:1], exits[-1]], 1))


def trained(network, dataset, epochs=4):
    """The network, trained on both exits for a few epochs."""
    torch.manual_seed(0)
    images, labels = dataset.images(range(len(dataset))).float() / 255, dataset.labels
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(128):
            exits = network(images[rows]).exits.flatten(0, 1)
            loss = nn.functional.cross_entropy(exits, labels[rows].repeat_interleave(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()
