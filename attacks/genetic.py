"""A genetic search on executed MACs alone (after EAGA: Du, Sha and Peng, 2024).

A population of patterns an image, each scaled to the edge of the ball. A child takes a rectangle of
one parent and the rest of another, a random square of it is recolored, and it replaces the worst
of the population when it executes no less. Parents are drawn with a preference for the
best. The published attack is described by its parts (a better initial population, crossover,
mutation, an energy oracle); sizes and rates are not restated in its abstract and are this module's
own. The first population mixes stripes, coarse random patterns and the unchanged image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.best_saved import BestSaved
from attacks.box import ball_of
from attacks.square import edge, place_window, recolored
from bench.api import Attack, BudgetSpent, Job, Threat, View
from bench.image import settle, to_float


@dataclass(frozen=True, kw_only=True)
class Genetic(Attack):
    """A genetic search that sees executed MACs and nothing else (after EAGA, 2024).

    Costs per step: 1 forward, that of one child. Every candidate is evaluated as the 8-bit image
    that would be saved.

    Attributes:
        steps: candidates at most, the first population included, or "budget".
        population: patterns an image.
        mutation: side of the square that is recolored in a child, as a share of the image's, at the
            start; it falls linearly to one pixel.
        pressure: exponent of the preference for good parents: the parent of rank r of n (0 the
            best) is floor(n u^pressure) for uniform u; 1 is no preference.
        psnr: under threat "none" the search stays above this floor, dB.
    """

    access: ClassVar[Literal["gates", "macs"]] = "macs"
    randomised: ClassVar[bool] = True
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Du, Sha and Peng, EAGA: an energy-oriented attack by a genetic algorithm, "
        "Information and Software Technology, 2024 (from its abstract)"
    )
    step_cost: ClassVar[str] = "1 (forward)"
    needs: ClassVar[str] = "executed MACs"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "population": (2, None),
        "mutation": (0, 1),
        "pressure": (1, None),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    steps: int | Literal["budget"] = "budget"
    population: int = 12
    mutation: float = 0.5
    pressure: float = 2.0
    psnr: float = 30.0

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        ball = ball_of(job.threat, self.psnr)
        most = int(view.left.max())
        total = most if self.steps == "budget" else min(self.steps, most)
        channels, height, width = images.shape[1:]
        size = min(self.population, max(total, 1))
        herd = Population(view, images, ball, size)
        rows = torch.arange(len(images), device=images.device)
        drawn = job.draw((max(total, 1), 8 + channels)).to(images.device)
        coarse = job.draw((size, channels, 4, 4), normal=True).to(images.device)
        try:
            for member in range(size):
                pattern = self._first(images, drawn[:, member], coarse[:, member], member, ball)
                herd.enter(pattern, rows, torch.full_like(rows, member))
            for step in range(size, total):
                if view.draws == 1:
                    rows = (herd.best.macs < view.ceiling).nonzero().flatten()
                if len(rows) == 0:
                    break
                chance = drawn[rows, step]
                share = self.mutation * (1 - step / total)
                side = max(round(share * min(height, width)), 1)
                child = herd.crossed(rows, chance, self.pressure)
                child = recolored(child, chance[:, 6:], side, ball)
                herd.enter(child, rows, herd.worst(rows))
                job.progress(step + 1, total)
        except BudgetSpent:
            pass
        return herd.best.image if view.draws == 1 else herd.fittest()

    def _first(
        self, images: Tensor, drawn: Tensor, coarse: Tensor, member: int, ball: Threat
    ) -> Tensor:
        """Member 0 is the image itself; odd ones are stripes, even ones smooth random patterns."""
        height, width = images.shape[-2:]
        if member == 0 and ball.norm != "patch":
            return torch.zeros_like(images)
        if member % 2:
            flat = coarse[:, :, :1].sign()
            pattern = F.interpolate(flat, size=(height, width), mode="nearest")
        else:
            pattern = F.interpolate(coarse, size=(height, width), mode="bilinear").clamp(-1, 1)
        return place_window(pattern, drawn[:, :2], height, width, ball)


class Population:
    """The patterns of N images and what each executed.

    Attributes:
        pattern: (N, P, C, H, W) in [-1, 1], scaled to the edge of the ball when they are tried.
        macs: (N, P) int64, -1 for a place that is empty.
        best: of all that was evaluated.
    """

    def __init__(self, view: View, clean: Tensor, ball: Threat, size: int) -> None:
        self.view, self.clean, self.ball = view, clean, ball
        self.pattern = clean.new_zeros((len(clean), size, *clean.shape[1:]))
        self.macs = torch.full((len(clean), size), -1, dtype=torch.int64, device=clean.device)
        self.best = BestSaved(clean)

    def enter(self, pattern: Tensor, rows: Tensor, places: Tensor) -> None:
        """Evaluate patterns (M, C, H, W) of distinct images `rows` (M,); each replaces the member
        at its place (M,) unless it executes less.
        """
        saved = self._saved(pattern, rows)
        macs = self.view.macs(to_float(saved).to(self.clean), rows)
        self.best.offer(rows, saved, macs)
        stays = macs >= self.macs[rows, places]
        before = self.pattern[rows, places]
        self.pattern[rows, places] = torch.where(stays[:, None, None, None], pattern, before)
        self.macs[rows, places] = torch.where(stays, macs, self.macs[rows, places])

    def worst(self, rows: Tensor) -> Tensor:
        """(M,) the place of the member that executes least."""
        return self.macs[rows].argmin(1)

    def fittest(self) -> Tensor:
        """(N, C, H, W) the saved images of the members that execute most, in the population now."""
        rows = torch.arange(len(self.clean), device=self.clean.device)
        chosen = self.pattern[rows, self.macs.argmax(1)]
        return to_float(self._saved(chosen, rows)).to(self.clean)

    def crossed(self, rows: Tensor, chance: Tensor, pressure: float) -> Tensor:
        """(M, C, H, W): a random rectangle of one parent in another.

        Args:
            rows: (M,) int64.
            chance: (M, 6 or more) uniform: two for the parents, four for the rectangle.
            pressure: see `Genetic`.
        """
        size = self.macs.shape[1]
        order = self.macs[rows].argsort(dim=1, descending=True, stable=True)
        ranks = (chance[:, :2].pow(pressure) * size).long().clamp(max=size - 1)
        one, other = (order.gather(1, ranks[:, i : i + 1])[:, 0] for i in range(2))
        height, width = self.clean.shape[-2:]
        y = torch.arange(height, device=rows.device)[None] / height
        x = torch.arange(width, device=rows.device)[None] / width
        low, high = chance[:, 2:6:2], chance[:, 3:6:2]
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        inside_y = (y >= low[:, :1]) & (y < high[:, :1])
        inside_x = (x >= low[:, 1:]) & (x < high[:, 1:])
        where = (inside_y[:, :, None] & inside_x[:, None, :])[:, None]
        if self.ball.norm == "patch":  # a child of two patches at two places is one of them
            return self.pattern[rows, one]
        return torch.where(where, self.pattern[rows, one], self.pattern[rows, other])

    def _saved(self, pattern: Tensor, rows: Tensor) -> Tensor:
        moved = self.clean[rows] + pattern * edge(pattern, self.ball)
        return settle(moved, self.best.grid[rows], self.ball)
