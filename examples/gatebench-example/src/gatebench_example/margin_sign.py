"""Signed gradient steps on the margins of missing units: an attack in 30 lines."""

from dataclasses import dataclass

import torch

from bench.api import Attack, BudgetSpent
from bench.image import project


@dataclass(frozen=True, kw_only=True)
class MarginSign(Attack):
    """Signed gradient steps on the margins of missing units, inside the threat (PGD on gates)."""

    step: float = 0.01

    def perturb(self, view, images, labels, job):
        rows = torch.arange(len(images), device=images.device)
        x, kept, most = images, images.clone(), torch.full((len(images),), -1, device=images.device)
        try:
            while True:
                output, (gradient,) = view.gradients(
                    lambda out: [out.margins.clamp(max=0).sum(1)], x, rows
                )
                macs = view.price(output.decisions)
                better = macs > most
                kept[better], most[better] = x[better], macs[better]
                if bool((macs == view.ceiling).all()):
                    return kept
                x = project(x + self.step * gradient.sign(), images, job.threat)
        except BudgetSpent:
            return kept
