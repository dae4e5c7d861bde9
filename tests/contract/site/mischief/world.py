"""The honest part: a tiny data set, and attacks that behave."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from bench.api import Attack, BudgetSpent
from bench.contracts.dataset import PixelDataset
from bench.image import project


class Pixels(PixelDataset):
    """Forty 8x8 pictures of blobs and noise, from a fixed seed."""

    sizes: ClassVar = {"train": 8, "test": 40}
    image_shape = (3, 8, 8)
    note = "for tests"
    credits: ClassVar = ("drawn by numpy",)

    def __init__(self, split, data_root=None):
        self.name, self.split = "toy-pixels", split
        self.classes = ("a", "b", "c", "d")
        generator = np.random.default_rng(int(hashlib.sha256(split.encode()).hexdigest()[:8], 16))
        count = self.sizes[split]
        flat = generator.integers(0, 256, (count, 1, 1, 3))
        noise = generator.integers(-60, 61, (count, 8, 8, 3))
        self.hold(np.clip(flat + noise, 0, 255).astype(np.uint8), generator.integers(0, 4, count))


@dataclass(frozen=True, kw_only=True)
class Still(Attack):
    """Changes nothing."""

    control: ClassVar[bool] = True

    def perturb(self, view, images, labels, job):
        return images.clone()


@dataclass(frozen=True, kw_only=True)
class Wander(Attack):
    """Random starts from each image's own generator, then signed steps up the margins; stops when
    the budget is spent.

    Attributes:
        step: in [0,1] pixel units.
        start: width of the random start.
    """

    randomised: ClassVar[bool] = True
    presets: ClassVar = {"bold": {"step": 0.05}}

    step: float = 0.02
    start: float = 0.01

    def perturb(self, view, images, labels, job):
        rows = torch.arange(len(images), device=images.device)
        noise = job.draw(images.shape[1:], normal=True).to(images.device)
        current = project(images + self.start * noise, images, job.threat)
        best, most = (
            images.clone(),
            torch.zeros(len(images), dtype=torch.int64, device=images.device),
        )
        try:
            while True:
                output, (grad,) = view.gradients(
                    lambda out: [out.logit_margins.sum(1)], current, rows
                )
                macs = view.price(output.decisions)
                better = macs > most
                best[better], most[better] = current[better], macs[better]
                current = project(current + self.step * grad.sign(), images, job.threat)
        except BudgetSpent:
            return best


@dataclass(frozen=True, kw_only=True)
class BlackBox(Attack):
    """Random noise, judged by executed MACs alone."""

    access: ClassVar = "macs"
    randomised: ClassVar[bool] = True

    def perturb(self, view, images, labels, job):
        rows = torch.arange(len(images), device=images.device)
        best, most = images.clone(), view.macs(images, rows)
        noise = job.draw((int(job.budget) - 1, *images.shape[1:])).to(images.device) - 0.5
        for i in range(noise.shape[1]):
            trial = project(images + 0.2 * noise[:, i], images, job.threat)
            macs = view.macs(trial, rows)
            better = macs > most
            best[better], most[better] = trial[better], macs[better]
        return best
