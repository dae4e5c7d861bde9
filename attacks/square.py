"""Random search on executed MACs alone: what an attacker can do who sees a meter and nothing else.

After the Square attack (Andriushchenko et al., ECCV 2020): start from vertical stripes at the edge
of the ball, then give one random square of the image a new random colour and keep it when the meter
does not fall. Squares shrink on the published schedule. Where the original accepts strict
improvements of a smooth loss, a count of MACs is flat nearly everywhere, so that equal counts are
accepted too: the search walks along its plateaus. Under L_2 the original's bump proposals are
replaced by flat squares and a rescaling onto the sphere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from attacks.best_saved import BestSaved
from attacks.box import ball_of
from bench.api import Attack, BudgetSpent, Job, Threat, View
from bench.image import settle, to_float

SHRINKS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)
"""Shares of the run after which the area of the squares is halved: queries 10, 50, 200 ... of the
published 10,000.
"""


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random squares kept when executed MACs, all it sees, do not fall (after Square, ECCV 2020).

    Costs per step: 1 forward. Every candidate is evaluated as the 8-bit image that would be saved.

    Attributes:
        steps: candidates at most, or "budget".
        p: share of the image that the first squares cover.
        psnr: under threat "none" the search stays above this floor, dB.
    """

    access: ClassVar[Literal["gates", "macs"]] = "macs"
    randomised: ClassVar[bool] = True
    version: ClassVar[int] = 1
    follows: ClassVar[str] = (
        "Andriushchenko et al., Square Attack: a query-efficient "
        "black-box adversarial attack, ECCV 2020"
    )
    step_cost: ClassVar[str] = "1 (forward)"
    needs: ClassVar[str] = "executed MACs"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {
        "steps": (1, None),
        "p": (0.001, 1),
        "psnr": (1, 120),
    }
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    steps: int | Literal["budget"] = "budget"
    p: float = 0.8
    psnr: float = 30.0

    def perturb(self, view: View, images: Tensor, labels: Tensor, job: Job) -> Tensor:
        ball = ball_of(job.threat, self.psnr)
        most = int(view.left.max()) - 2
        total = most if self.steps == "budget" else min(self.steps, most)
        channels, height, width = images.shape[1:]
        search = Search(view, images, ball)
        try:
            search.offer(torch.zeros_like(images), search.everyone)
            drawn = job.draw((max(total, 1), 2 + channels)).to(images.device)
            stripes = torch.where(
                job.draw((channels, 1, width)).to(images.device) < 0.5, -1.0, 1.0
            ).expand(images.shape)
            search.offer(
                place_window(stripes, drawn[:, 0], height, width, ball),
                search.everyone,
                settled=ball.norm == "patch",
            )
            rows = search.everyone
            for step in range(total):
                rows = search.going(rows)
                if len(rows) == 0:
                    break
                side = max(round((self.area(step / total) * height * width) ** 0.5), 1)
                search.offer(recolored(search.delta[rows], drawn[rows, step], side, ball), rows)
                job.progress(step + 1, total)
        except BudgetSpent:
            pass
        return search.best.image

    def area(self, share: float) -> float:
        """The share of the image that a square covers when `share` of the run is over."""
        halvings: int = 2 ** sum(share >= mark for mark in SHRINKS)
        return self.p / halvings


class Search:
    """Where each of N images stands, and the best saved image it has met.

    Attributes:
        delta: (N, C, H, W) the pattern that the walk stands on, in [-1, 1]; scaled to the edge of
            the ball when it is tried.
        macs: (N,) of the walk.
        best: of all that was evaluated.
    """

    def __init__(self, view: View, clean: Tensor, ball: Threat) -> None:
        self.view, self.clean, self.ball = view, clean, ball
        self.everyone = torch.arange(len(clean), device=clean.device)
        self.delta = torch.zeros_like(clean)
        self.macs = torch.full_like(self.everyone, -1)
        self.best = BestSaved(clean)

    def going(self, rows: Tensor) -> Tensor:
        """Those of `rows` that do not execute everything yet; all on a random target, where nobody
        knows."""
        if self.view.draws > 1:
            return rows
        on = (self.macs[rows] < self.view.ceiling).cpu()
        if bool(on.all()):
            return rows
        return rows[on.nonzero().flatten().to(rows.device, non_blocking=True)]

    def offer(self, delta: Tensor, rows: Tensor, *, settled: bool = False) -> None:
        """Try a pattern on the images `rows`: walk there unless the meter falls (or in any case),
        keep it if it is the best.
        """
        saved = settle(
            self.clean[rows] + delta * edge(delta, self.ball), self.best.grid[rows], self.ball
        )
        macs = self.view.macs(to_float(saved), rows)
        walks = (macs >= self.macs[rows]) | settled
        self.delta[rows] = torch.where(walks[:, None, None, None], delta, self.delta[rows])
        self.macs[rows] = torch.where(walks, macs, self.macs[rows])
        # on a random target one draw says little; where the walk stands was evaluated several times
        self.best.offer(rows, saved, macs, walks if self.view.draws > 1 else None)


def edge(delta: Tensor, ball: Threat) -> Tensor:
    """(N, 1, 1, 1) what brings a pattern to the edge of the ball."""
    bound = ball.bound(delta[0].numel())
    assert bound is not None
    if ball.norm == "linf":
        return torch.full((len(delta), 1, 1, 1), bound / 255, device=delta.device)
    if ball.norm == "patch":
        return torch.ones((len(delta), 1, 1, 1), device=delta.device)
    norm: Tensor = delta.flatten(1).norm(dim=1).clamp(min=1e-12)[:, None, None, None]
    radius: float = bound**0.5 / 255
    return radius / norm


def recolored(delta: Tensor, drawn: Tensor, side: int, ball: Threat) -> Tensor:
    """The patterns (M, C, H, W) with a random square in random colours.

    Under a patch, within the square that is changed already.

    Args:
        drawn: (M, 2 + C) uniform: place down, place across, and a sign for each channel.
    """
    height, width = delta.shape[-2:]
    free = torch.ones_like(delta[:, :1], dtype=torch.bool)
    if ball.norm == "patch":
        free = (delta != 0).any(1, keepdim=True)
        side = min(side, max(int(ball.amount) // 2, 1))
    where = window(drawn, side, free, height, width)
    color = torch.where(drawn[:, 2:] < 0.5, -1.0, 1.0)[:, :, None, None]
    return torch.where(where & free, color.expand(delta.shape), delta)


def window(drawn: Tensor, side: int, free: Tensor, height: int, width: int) -> Tensor:
    """(M, 1, H, W) bool: a square of `side` pixels at a random place inside the rectangle that
    `free` (M, 1, H, W) spans.
    """
    y, x = torch.arange(height, device=drawn.device), torch.arange(width, device=drawn.device)
    inside_y, inside_x = free.any(3)[:, 0], free.any(2)[:, 0]
    top, tall = inside_y.to(torch.int64).argmax(1), inside_y.sum(1)
    left, wide = inside_x.to(torch.int64).argmax(1), inside_x.sum(1)
    first_y = top + (drawn[:, 0] * (tall - min(side, height) + 1).clamp(min=1)).long()
    first_x = left + (drawn[:, 1] * (wide - min(side, width) + 1).clamp(min=1)).long()
    rows = (y >= first_y[:, None]) & (y < first_y[:, None] + side)
    columns = (x >= first_x[:, None]) & (x < first_x[:, None] + side)
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def place_window(stripes: Tensor, drawn: Tensor, height: int, width: int, ball: Threat) -> Tensor:
    """The starting pattern: stripes everywhere, or, under a patch, in one random square."""
    if ball.norm != "patch":
        return stripes.clone()
    where = window(
        drawn[:, :2],
        int(ball.amount),
        torch.ones_like(stripes[:, :1], dtype=torch.bool),
        height,
        width,
    )
    return torch.where(where, stripes, torch.zeros_like(stripes))
