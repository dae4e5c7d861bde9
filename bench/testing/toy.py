"""A toy target whose MACs are computed by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.contracts.target import Output, Target
from bench.contracts.units import Units


class ToyTarget(Target):
    """Three skippable 3x3 convolutions on 8x8 images; small enough that its MACs are computed by
    hand.

    By hand, with the biases: stem 8*8*(3*9*4 + 4) = 7168; a block 8*8*(4*9*4 + 4) = 9472; a gate 4
    + 1 = 5; the head 4*4 + 4 = 20. Floor 7168 + 3*5 + 20 = 7203, ceiling 7203 + 3*9472 = 35619.
    """

    follows = "no paper; a toy for tests"

    forks = True
    admits = True

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.image_shape = (3, 8, 8)
        self.classes = 4
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.blocks = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
            self.gates = nn.ModuleList(nn.Linear(4, 1) for _ in range(3))
            self.head = nn.Linear(4, 4)
            for gate in self.gates:
                assert isinstance(gate, nn.Linear)
                nn.init.normal_(gate.weight, std=6)
                nn.init.zeros_(gate.bias)
        block = 8 * 8 * (4 * 9 * 4 + 4)
        self.units = Units.gated([f"block{i}" for i in range(3)], ["blocks"] * 3, [block] * 3)

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        x = torch.relu(self.stem(images - 0.5))
        logits, taken = [], []
        for i, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            x, seen = self.fork(x, i)
            logit = gate(seen.mean((2, 3)) - 0.1)[:, 0]
            on = (
                self.admit(i, logit[:, None], logit[:, None] > 0)[:, 0]
                if decisions is None
                else decisions[:, i]
            )
            mask = on.to(x.dtype)
            if self.evaluation.mask_grad == "ste":
                soft = torch.sigmoid(logit)
                mask = mask + soft - soft.detach()
            x = x + mask[:, None, None, None] * torch.relu(block(x))
            logits.append(logit)
            taken.append(on)
        return self._output(self.head(x.mean((2, 3))), logits, taken)

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        x = torch.relu(self.stem(image - 0.5))
        logits, taken = [], []
        for i, (block, gate) in enumerate(zip(self.blocks, self.gates, strict=True)):
            logit = gate(x.mean((2, 3)) - 0.1)[:, 0]
            on = (
                self.admit(i, logit[:, None], logit[:, None] > 0)[:, 0]
                if decisions is None
                else decisions[:, i]
            )
            if bool(on):
                x = x + torch.relu(block(x))
            logits.append(logit)
            taken.append(on)
        return self._output(self.head(x.mean((2, 3))), logits, taken)

    def macs(self, decisions: Tensor) -> Tensor:
        return 7203 + 9472 * decisions.to(torch.int64).sum(1)

    def _output(self, classes: Tensor, logits: list[Tensor], taken: list[Tensor]) -> Output:
        logit = torch.stack(logits, 1)
        return Output(classes, torch.sigmoid(logit) - 0.5, logit, torch.stack(taken, 1))
