"""Adaptive computation time inside one block: scores, their sums, and the weighted mean of the
states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from targets.pieces.positions import Positions, multiply
from targets.sact.blocks import Form, Unit

START = -3.0
"""Bias of a score's logit at the start, so that nothing halts before it has learned to."""


class HaltingScore(nn.Module):
    """h in (0,1) of a unit's output: sigmoid(conv3x3(bn(x)) + conv1x1(bn(mean x))), or the second
    term alone.

    Args:
        form: of the network.
        channels: C.
        spatial: a score for each position (SACT), or one for the image (ACT).
    """

    def __init__(self, form: Form, channels: int, *, spatial: bool) -> None:
        super().__init__()
        self.spatial, self.active = spatial, form.family == "cifar"
        self.activation = form.activation
        self.global_bn, self.global_conv = (
            form.norm(channels),
            nn.Conv2d(channels, 1, 1, bias=not spatial),
        )
        self.local_bn = form.norm(channels) if spatial else None
        self.local_conv = nn.Conv2d(channels, 1, 3, 1, 1) if spatial else None
        self.start(START)

    def start(self, bias: float) -> None:
        """Small weights, and this bias."""
        for conv in (self.global_conv, self.local_conv):
            if conv is not None:
                nn.init.normal_(conv.weight, 0, 0.01)
        nn.init.constant_(self.bias, bias)

    @property
    def bias(self) -> Tensor:
        """The bias of the logit."""
        found = self.global_conv.bias if self.local_conv is None else self.local_conv.bias
        assert found is not None
        return found

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W), or (N, 1, 1), from (N, C, H, W); in float32 or better, autocast or not."""
        if torch.is_autocast_enabled(x.device.type):
            with torch.autocast(x.device.type, enabled=False):
                scores: Tensor = self(x.float())
                return scores
        logit = self._of_the_whole(x)
        if self.local_conv is not None:
            logit = logit + self.local_conv(self._ready(self.local_bn, x))
        return logit[:, 0].sigmoid()

    def at(self, x: Tensor, where: Positions) -> Tensor:
        """(1, H, W) scores of one image at some positions, 0 elsewhere."""
        assert self.local_conv is not None
        logit = (
            multiply(self.local_conv, where.windows(self._ready(self.local_bn, x)))
            + self._of_the_whole(x).flatten()
        )
        return where.put(logit.sigmoid())[:, 0]

    def macs(self, active: Tensor) -> Tensor:
        """(N,) int64 at so many positions of each image; nothing where there is none."""
        channels = self.global_conv.in_channels
        if self.local_conv is None:
            return (active > 0) * (channels + 1)
        return (active > 0) * channels + active * (9 * channels + 1)

    def own_macs(self, positions: int) -> int:
        """MACs that grow with the positions (SACT), or all of them (ACT)."""
        channels = self.global_conv.in_channels
        return positions * (9 * channels + 1) if self.spatial else channels + 1

    def _of_the_whole(self, x: Tensor) -> Tensor:
        """(N, 1, 1, 1) the part of the logit that the mean decides."""
        logit: Tensor = self.global_conv(self._ready(self.global_bn, x.mean((2, 3), keepdim=True)))
        return logit

    def _ready(self, norm: nn.BatchNorm2d | None, x: Tensor) -> Tensor:
        assert norm is not None
        y: Tensor = norm(x)
        return self.activation(y) if self.active else y


@dataclass(frozen=True)
class HaltingRun:
    """How a block halted; h x w is the map, or 1 x 1 where the image decides.

    Attributes:
        sums: of each gated unit, (N, h, w) the sum of scores that decided it.
        active: of each gated unit, (N, h, w) bool, where it ran.
        remainder: (N, h, w) the weight of the last state, R.
    """

    sums: list[Tensor]
    active: list[Tensor]
    remainder: Tensor

    def ponder(self) -> Tensor:
        """(N,) the mean over positions of N + R, units run plus remainder: what training makes
        small."""
        ran = torch.stack([active.to(self.remainder.dtype) for active in self.active]).sum(0) + 1
        return (ran + self.remainder).flatten(1).mean(1)


Residual = Callable[[Unit, Tensor, Tensor], Tensor]
"""(unit, state, (N, h, w) where it is active) -> the new state, unchanged elsewhere."""
Score = Callable[[HaltingScore, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(score, state, (N, h, w) where it is wanted) -> (the state, (N, h, w) scores; anything
elsewhere)."""
Admit = Callable[[int, Tensor, Tensor], Tensor]
"""(gated unit, (N, h, w) margins, (N, h, w) bool where it is wanted) -> (N, h, w) bool where it
runs."""


def halt(
    units: Sequence[Unit],
    scores: Sequence[HaltingScore],
    x: Tensor,
    forced: list[Tensor] | None,
    limit: float,
    residual: Residual,
    score: Score,
    admit: Admit = lambda place, margins, wanted: wanted,
    *,
    leaves_out: bool = True,
) -> tuple[Tensor, HaltingRun]:
    """HaltingRun one block.

    Args:
        units, scores: of the block; a score for each unit but the last, or none where nothing
            halts.
        x: (N, C, H, W) features in front of it.
        forced: of each gated unit, (N, h, w) bool, instead of the rule.
        limit: a position stops when its scores add up to this.
        residual, score: how a unit and a score are evaluated.
        admit: has the last word on where a gated unit runs.
        leaves_out: ask whether any position is active, and leave units out where none is.

    Returns:
        (N, C', H', W') the weighted mean of the states, and how it came about.
    """
    x = units[0](x)
    if not scores:
        for unit in units[1:]:
            x = unit(x)
        return x, HaltingRun([], [], x.new_ones(len(x), 1, 1))
    size = x.shape[2:] if scores[0].spatial else (1, 1)
    active = torch.ones((len(x), *size), dtype=torch.bool, device=x.device)
    total = torch.zeros((len(x), *size), dtype=_wide(x), device=x.device)
    mean: Tensor | float = 0.0
    remainder, sums, taken = torch.zeros_like(total), [], []
    for place, unit in enumerate(units[1:]):
        if not leaves_out or bool(active.any()):
            x, found = score(scores[place], x, active)
            if forced is None:
                margin = limit - (total + found).detach()
                onward = admit(place, margin, active & (margin > 0))
            else:
                onward = active & forced[place].to(x.device)
            left = torch.where(active & ~onward, 1 - total, 0)
            mean = mean + (torch.where(onward, found, 0) + left)[:, None] * x
            remainder = remainder + left
            total = torch.where(active, total + found, total)
            active = onward
            if not leaves_out or bool(active.any()):
                x = residual(unit, x, active)
        sums.append(total)
        taken.append(active)
    left = torch.where(active, 1 - total, 0)
    mean = mean + left[:, None] * x
    return mean.to(x.dtype), HaltingRun(sums, taken, remainder + left)


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32
