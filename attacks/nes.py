"""Gradient descent on estimated gradients of executed MACs (NES: Ilyas et al., ICML 2018).

MACs C(x) are a step function of the image. Smoothed by noise they have a gradient, estimated from
antithetic pairs (Wierstra et al., Natural evolution strategies, 2014; Salimans et al., 2017):

    grad E[C(x + sigma u)]  ~  1 / (2 n sigma) sum_i (C(x + sigma u_i) - C(x - sigma u_i)) u_i

u is coarse noise: one number a square of pixels, since the estimate's error grows with the number
of values that are drawn (Ilyas et al., Prior convictions, ICLR 2019, tile in the same way). Steps
have one length, with momentum, and are projected onto the ball. Every query is a saved image inside
the ball and a candidate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.best_saved import BestSaved
from attacks.box import ball_of, reach
from attacks.rules import norms
from bench.api import Attack, BudgetSpent, Job, Skip, Target, Threat, View
from bench.image import project, settle, to_float


@dataclass(frozen=True, kw_only=True)
class NES(Attack):
    """Climbs an estimated gradient of executed MACs, which is all it sees (NES, ICML 2018).

    Costs per step: 2 forwards a pair. Every query is evaluated as the 8-bit image that would be
    saved.

    Attributes:
        steps: gradient steps at most, or "budget".
        pairs: antithetic pairs a step.
        sigma: root mean square of the noise, as a share of the largest change the threat admits.
        lr: root mean square of a step, as a share of the same.
        momentum: share of the last step's direction that is kept.
        tile: side of the squares of pixels that share one number of the noise.
        psnr: under threat "none" the search stays above this floor, dB.
    """

    access: ClassVar[Literal["gates", "macs"]] = "macs"
    randomised: ClassVar[bool] = True
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Ilyas et al., Black-box adversarial attacks with limited queries and information, ICML "
        "2018"
    )
    step_cost: ClassVar[str] = "2 a pair (forwards)"
    needs: ClassVar[str] = "executed MACs"
    threats: ClassVar[str] = "linf, l2, psnr, none"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "pairs": (1, None),
        "sigma": (0.001, 10),
        "lr": (0, None),
        "momentum": (0, 1),
        "tile": (1, None),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    steps: int | Literal["budget"] = "budget"
    pairs: int = 3
    sigma: float = 0.5
    lr: float = 0.3
    momentum: float = 0.75
    tile: int = 4
    psnr: float = 30.0

    def supports(self, target: Target, threat: Threat) -> Skip | None:
        """Its noise covers the whole image."""
        if threat.norm == "patch":
            return Skip(
                "its noise covers the whole image, and under a patch only a square may change"
            )
        return None

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        ball = ball_of(job.threat, self.psnr)
        values = images[0].numel()
        far = reach(ball, values, self.psnr)
        most = int(view.left.max() - 1) // (2 * self.pairs)
        total = most if self.steps == "budget" else min(self.steps, most)
        best, rows = BestSaved(images), torch.arange(len(images), device=images.device)
        x, kept = images.clone(), torch.zeros_like(images)
        generators = job.generators()
        try:
            self._query(view, best, images, images, rows, ball)
            for step in range(total):
                if view.draws == 1:
                    rows = (best.macs < view.ceiling).nonzero().flatten()
                if len(rows) == 0:
                    break
                gradient = torch.zeros_like(x[rows])
                for _ in range(self.pairs):
                    noise = self._noise(generators, images)[rows]
                    plus, minus = (
                        self._query(
                            view,
                            best,
                            images,
                            x[rows] + sign * self.sigma * far * noise,
                            rows,
                            ball,
                        )
                        for sign in (1, -1)
                    )
                    gradient += (plus - minus).to(x)[:, None, None, None] * noise
                unit = gradient / norms(gradient).clamp(min=1e-30)
                kept[rows] = self.momentum * kept[rows] + (1 - self.momentum) * unit
                move = kept[rows] / norms(kept[rows]).clamp(min=1e-30)
                x[rows] = project(x[rows] + self.lr * far * values**0.5 * move, images[rows], ball)
                job.progress(step + 1, total)
        except BudgetSpent:
            pass
        return best.image if view.draws == 1 else x

    def _noise(self, generators: list[torch.Generator], images: Tensor) -> Tensor:
        """(N, C, H, W) standard normal, constant on squares of `tile` pixels, row i from image i's
        own generator.
        """
        channels, height, width = images.shape[1:]
        shape = (channels, -(-height // self.tile), -(-width // self.tile))
        coarse = torch.stack([torch.randn(shape, generator=one) for one in generators])
        fine = F.interpolate(coarse, scale_factor=self.tile, mode="nearest")
        return fine[:, :, :height, :width].to(images)

    def _query(
        self,
        view: View,
        best: BestSaved,
        clean: Tensor,
        moved: Tensor,
        rows: Tensor,
        ball: Threat,
    ) -> Tensor:
        """(M,) the MACs of the saved forms of `moved` (M, C, H, W), each offered to `best`."""
        saved = settle(project(moved, clean[rows], ball), best.grid[rows], ball)
        macs = view.macs(to_float(saved).to(clean), rows)
        best.offer(rows, saved, macs)
        return macs
