"""A monitor: where the pattern of gates looks unlikely on clean images, the network is run again
with everything on.

The score of an image is the negative log-likelihood of its decisions under independent units that
run as often as they did on held-out clean images,

    score = - sum_j [ d_j log p_j + (1 - d_j) log(1 - p_j) ],

one multiplication a unit. Above a threshold (a quantile of the held-out scores) the dynamic result
is thrown away and everything is executed, so that an attacker cannot spoil the answer by the choice
of units. What the first pass and the monitor cost is counted too.

The pattern is hard, so its surrogate gradient is that of the logit margins, of those units alone
that have not yet decided the way the loss wants them to. Running everything is work that can be
left out, so it is a unit like any other, with a margin of score less threshold: an attack on
margins attacks the monitor with the gates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Defense, Output, Target, Units
from bench.errors import PlanError
from targets.defenses.wrapped import Wrapped
from targets.pieces.counting import picks_rows

LEAST_RATE = 0.01
"""Rates are kept this far from 0 and 1, so that one unit that was never seen to run is no proof."""


class Monitored(Wrapped):
    """A target that is executed as a whole where its gates look unlikely.

    Args:
        inner: with at least one unit.
        weight: (U,) and bias: () so that score = weight . decisions + bias.
        limit: () of the score.

    The last unit is running everything; its margin is (score - limit) / sum |weight|, so that a
    loss on margins sees the monitor and all gates together at one scale.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, inner: Target, weight: Tensor, bias: float, limit: float) -> None:
        if not len(inner.units):
            raise PlanError("a monitor watches units, and this target has none")
        super().__init__(inner)
        scale = float(weight.abs().sum().clamp(min=1e-6))
        self.register_buffer("weight", (weight / scale).to(torch.float32)[None].clone())
        self.register_buffer("bias", torch.tensor([(bias - limit) / scale], dtype=torch.float32))
        self.overhead = len(inner.units) + 1
        self.admits = False  # an alarm asks no governor
        self.whole = inner.extremes()[1]
        self.units = _with_fallback(inner.units, int(inner.macs(self.whole)))

    def forward(self, images: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate N images (N, C, H, W); those whose gates look unlikely a second time, with
        everything on."""
        seen: Output = self.inner(images, None if decisions is None else decisions[:, :-1])
        output, again = self._judged(seen, decisions)
        if not bool(again.any()):
            return output
        every = torch.arange(len(images), device=images.device)
        rows = again.nonzero().squeeze(1) if picks_rows(images) else every
        whole = self._whole(images[rows], rows)

        def mixed(first: Tensor, second: Tensor) -> Tensor:
            """Of each image the pass that counts: the second where the alarm went off."""
            second = first.index_copy(0, rows, second.to(first))
            return torch.where(again.view(-1, *[1] * (first.ndim - 1)), second, first)

        output = replace(output, logits=mixed(output.logits, whole.logits))
        if output.exits is not None and whole.exits is not None:
            output = replace(output, exits=mixed(output.exits, whole.exits))
        return output

    def execute(self, image: Tensor, decisions: Tensor | None = None) -> Output:
        """Evaluate one image, and everything of it a second time where its gates look unlikely."""
        seen = self.inner.execute(image, None if decisions is None else decisions[:, :-1])
        output, again = self._judged(seen, decisions)
        if bool(again):
            whole = self.inner.execute(image, self.whole.to(image.device))
            output = replace(output, logits=whole.logits, exits=whole.exits)
        return output

    def macs(self, decisions: Tensor) -> Tensor:
        """(N,) int64: the first pass, the monitor, and the second pass where there is one."""
        return (
            self.inner.macs(decisions[:, :-1])
            + self.overhead
            + decisions[:, -1].to(torch.int64) * int(self.units.cost[-1])
        )

    def marginal_macs(self, decisions: Tensor) -> Tensor:
        """(N, U) int64: those of the network inside, and the second pass."""
        inner = self.inner.marginal_macs(decisions[:, :-1])
        return torch.cat(
            [inner, self.units.column("cost", inner.device)[-1:].expand(len(inner), 1)], 1
        )

    def extremes(self) -> tuple[Tensor, Tensor]:
        """Those of the network inside, without and with the second pass."""
        least, most = self.inner.extremes()
        no = torch.zeros(1, 1, dtype=torch.bool)
        return torch.cat([least, no], 1), torch.cat([most, ~no], 1)

    @property
    def bound(self) -> int:
        """Everything twice, and the monitor."""
        return self.inner.bound + self.overhead + int(self.units.cost[-1])

    def _whole(self, images: Tensor, rows: Tensor) -> Output:
        seeds = self.evaluation.seeds
        chosen = None if seeds is None else seeds[rows.to(seeds.device)]
        with self.inner.evaluating(seeds=chosen):
            everything = self.whole.to(images.device, non_blocking=True).expand(len(images), -1)
            whole: Output = self.inner(images, everything)
        return whole

    def _judged(self, seen: Output, decisions: Tensor | None) -> tuple[Output, Tensor]:
        """The output with the monitor's unit, and (N,) bool whether everything is run again."""
        pattern = seen.decisions.to(self.weight.dtype)
        if seen.logit_margins.requires_grad and self.evaluation.surrogate:
            pattern = _Pattern.apply(pattern, seen.logit_margins.to(pattern.dtype))
        margin = F.linear(pattern, self.weight, self.bias).to(seen.margins.dtype)
        again = margin.detach() > 0 if decisions is None else decisions[:, -1:].to(margin.device)
        margins, logits = (
            torch.cat([part, margin], 1) for part in (seen.margins, seen.logit_margins)
        )
        output = Output(
            seen.logits, margins, logits, torch.cat([seen.decisions, again], 1), seen.exits
        )
        return output, again[:, 0]


class _Pattern(torch.autograd.Function):
    """Decisions, with the gradient of the logit margins where a decision is not yet what the loss
    would have it be."""

    @staticmethod
    def forward(ctx: Any, pattern: Tensor, logit_margins: Tensor) -> Tensor:
        ctx.save_for_backward(pattern)
        return pattern.view_as(pattern)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor]:
        (pattern,) = ctx.saved_tensors
        (grad,) = grads
        wants_open = grad < 0
        return None, torch.where(wants_open == (pattern > 0), torch.zeros_like(grad), grad)


def _with_fallback(units: Units, cost: int) -> Units:
    """The units, and one more: running everything."""
    infinite = torch.tensor([torch.inf], dtype=torch.float64)
    return Units(
        name=(*units.name, "everything"),
        kind=(*units.kind, "monitor"),
        owner=(*units.owner, "monitor"),
        shape=(*units.shape, ()),
        cost=torch.cat([units.cost, torch.tensor([cost], dtype=torch.int64)]),
        threshold=torch.cat([units.threshold, torch.zeros(1, dtype=torch.float64)]),
        low=torch.cat([units.low, -infinite]),
        high=torch.cat([units.high, infinite]),
        strict=torch.cat([units.strict, torch.ones(1, dtype=torch.bool)]),
        after=torch.cat([units.after, torch.full((1,), -1, dtype=torch.int64)]),
        alarm=torch.cat([units.alarm, torch.ones(1, dtype=torch.bool)]),
    )


class Monitor(Defense):
    """Runs everything where the gates of an image look unlikely on clean held-out images.

    Args:
        false_alarms: share of held-out clean images that may set it off.

    Costs one MAC a unit and one more for the image; an alarm costs a second, full execution. An
    attacker who wants work done has two ways: open gates unseen (`alarm = "avoid"`), or set off the
    alarm, which is the default of every gradient attack here.
    """

    fits: ClassVar[bool] = True
    follows: ClassVar[str] = "constant-time fallback behind a gate-pattern likelihood"
    ranges: ClassVar[Mapping[str, tuple[float | None, float | None]]] = {"false_alarms": (0, 0.5)}

    def __init__(self, *, false_alarms: float = 0.01) -> None:
        self.false_alarms = false_alarms

    def fit(self, target: Target, images: Tensor) -> dict[str, Tensor]:
        """Weight and bias of the score, and its threshold."""
        with torch.no_grad():
            ran = torch.cat([target(part).decisions for part in images.split(64)]).to(torch.float64)
        rate = ran.mean(0).clamp(LEAST_RATE, 1 - LEAST_RATE)
        weight, bias = torch.log1p(-rate) - rate.log(), -torch.log1p(-rate).sum()
        scores = (ran @ weight + bias).sort().values
        place = min(int((1 - self.false_alarms) * len(scores)), len(scores) - 1)
        gap = weight.abs().max() * 1e-3  # decisions are discrete: scores tie, and a tie is no alarm
        return {"weight": weight.cpu(), "bias": bias.cpu(), "limit": (scores[place] + gap).cpu()}

    def wrap(self, target: Target, learnt: Mapping[str, Tensor] = {}) -> Target:
        if not learnt:
            raise PlanError(
                "monitor: needs clean images to learn what is likely; use it in a plan, or call "
                "fit first"
            )
        return Monitored(target, learnt["weight"], float(learnt["bias"]), float(learnt["limit"]))
