"""Targets that lie, each about one thing; all are `bench.testing.ToyTarget` otherwise."""

from typing import Literal

import torch
from torch import nn

from bench.api import Evaluation
from bench.testing import ToyTarget

Lie = Literal[
    "none", "macs", "floor", "ceiling", "mask", "ignores-forced", "forward-ignores-forced", "disagrees", "decides-otherwise", "random",
    "company", "nan", "inference", "inference-declared", "lstm", "shape", "price-type", "raises", "after", "trains", "late-nan", "drifts",
]  # fmt: skip


class Toy(ToyTarget):
    """The toy target as it is: three skippable convolutions whose MACs are computed by hand."""

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__(seed=seed)


class StraightThroughToy(ToyTarget):
    """The toy target with straight-through masks for its own."""

    evaluation = Evaluation(mask_grad="ste")


class Liar(ToyTarget):
    """A toy target that lies about one thing.

    Args:
        lie: which.
    """

    def __init__(self, *, lie: Lie = "none", seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.lie = lie
        self.calls = 0
        if lie == "lstm":
            self.memory = nn.LSTM(4, 4)
        if lie == "company":
            self.norm = nn.BatchNorm2d(3, track_running_stats=False)
        if lie == "after":
            self.units.after[2] = 1

    def forward(self, images, decisions=None):
        self.calls += 1
        if self.lie == "random":
            images = (images + 0.2 * torch.rand_like(images)).clamp(0, 1)
        if self.lie == "company":
            images = self.norm(images)
        if self.lie == "trains":
            self.head.train()
        if self.lie == "drifts":
            with torch.no_grad():
                self.head.bias += 0.01
        if self.lie == "forward-ignores-forced":
            decisions = None
        if self.lie == "raises":
            raise LookupError("no forward today")
        output = super().forward(images, decisions)
        if self.lie == "nan" or (self.lie == "late-nan" and self.calls > 8):
            output.logits[0, 0] = float("nan")
        if self.lie == "shape":
            return type(output)(
                output.logits, output.margins[:, :2], output.logit_margins, output.decisions
            )
        return output

    def execute(self, image, decisions=None):
        if self.lie == "mask":
            return super().forward(image, decisions)
        if self.lie == "ignores-forced":
            return super().execute(image)
        if self.lie == "inference":
            with torch.inference_mode():
                return super().execute(image, decisions)
        if self.lie == "company":
            image = self.norm(image)
        if self.lie == "inference-declared":
            return self._secretly(image, decisions)
        output = super().execute(image, decisions)
        if self.lie == "lstm":
            self.memory(torch.zeros(2, 1, 4))
        if self.lie == "disagrees":
            output.logits.add_(0.5)
        if self.lie == "decides-otherwise" and decisions is None:
            flipped = output.decisions ^ torch.tensor([[False, True, False]])
            return super().execute(image, flipped)
        return output

    def _secretly(self, image, decisions):
        """The dear part where the counter does not look, and a price that fits."""
        x = torch.relu(self.stem(image - 0.5))
        logits, taken = [], []
        for i, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            logit = gate(x.mean((2, 3)) - 0.1)[:, 0]
            on = logit > 0 if decisions is None else decisions[:, i]
            if bool(on):
                with torch.inference_mode():
                    step = torch.relu(block(x))
                x = x + step.clone()
            logits.append(logit)
            taken.append(on)
        return self._output(self.head(x.mean((2, 3))), logits, taken)

    def macs(self, decisions):
        true = super().macs(decisions)
        if self.lie == "macs":
            return true + (decisions.sum(1) == 1)
        if self.lie == "inference-declared":
            return torch.full_like(true, 7203)
        if self.lie == "price-type":
            return true.to(torch.float64)
        return true

    @property
    def floor(self):
        return super().floor - (self.lie == "floor")

    @property
    def ceiling(self):
        return super().ceiling + (self.lie == "ceiling")
