"""What the tests of the families share: pictures with structure, and an attack on them."""

from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.gradauto import GradAuto
from bench.api import Job, Target, Threat
from bench.evaluation.view import TargetView


def natural(count: int, size: int = 32, seed: int = 1) -> Tensor:
    """(count, 3, size, size) smooth random pictures in [0,1]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def attacked(target: Target, images: Tensor, budget: int = 40) -> tuple[Tensor, Tensor]:
    """((N,) clean MACs, (N,) MACs after GradAuto)."""
    threat = Threat("linf", Fraction(16, 255))
    with torch.no_grad():
        clean = target(images)
    view = TargetView.of(target, images, budget, "gates")
    job = Job(threat, budget, tuple(f"image-{place}" for place in range(len(images))))
    found = GradAuto(steps="budget").perturb(view, images, clean.logits.argmax(1), job)
    with torch.no_grad():
        return target.macs(clean.decisions), target.macs(target(found).decisions)
