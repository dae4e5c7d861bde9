"""Losses on margins, and how far an image has moved.

A unit j runs when its margin m_j = G_j - tau_j is above (or at) zero. With weights lambda_j, a
target o_j and a penalty phi of the gap (`attacks.penalties`),

    L_C = sum_j lambda_j phi(max(o_j - m_j, 0))      what is still missing
    L_F = - sum_j lambda_j phi(max(m_j - o_j, 0))    what is finished already

With the hinge phi(g) = g these are ILFO's loss and GradAuto's Eq. 8 and 20. Both are per image and
never averaged over the batch. The paper weighs by compute share, lambda_j = c_j / sum c; the
released code weighs all gates 1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks.penalties import HINGE, Penalty, Weighting
from bench.api import Output, Units
from bench.errors import ContractBroken

Space = Literal["gate", "logit"]
Distance = Literal["pixels", "normalised", "none"]

_STRICT_OFFSET = {"gate": 1e-30, "logit": 1e-6}
"""Hinge target of a strict unit at least: a margin of exactly 0 keeps it closed, so its loss must
not be 0 there. A sigmoid in single precision rounds logits below 2e-7 to a gate value of 0.5.
"""


@dataclass(frozen=True)
class MarginLoss:
    """L_C and L_F over the units of a target.

    Attributes:
        weight: (U,) lambda.
        offset: (U,) the hinge target o, in units of the margin that `space` names.
        space: "gate" reads `Output.margins`, "logit" `Output.logit_margins`: the same zero set
            without the saturation.
        sign: (U,) 1 for units to be opened, -1 for the alarm of a monitor that is to stay silent:
            the joint loss.
        penalty: phi, what a gap costs; L_F takes it of what a margin has past its target.
    """

    weight: Tensor
    offset: Tensor
    space: Space
    sign: Tensor | None = None
    penalty: Penalty = HINGE

    @classmethod
    def over(
        cls,
        units: Units,
        weighting: Weighting,
        space: Space,
        offset: float,
        device: torch.device,
        *,
        alarm: str = "raise",
        penalty: Penalty | None = None,
    ) -> MarginLoss:
        """The losses over `units`.

        Args:
            units: of the target.
            weighting: "cost" lambda_j = c_j / sum c (paper), "uniform" lambda_j = 1 (released
                code).
            space: see above.
            offset: how far past its threshold a unit is pushed: in gate space a share of the gate's
                range (of 1 where that is infinite), in logit space in logits. 0 is the
                literature's; a little more keeps rounding from closing a gate.
            device: where the losses are evaluated.
            alarm: "raise" opens a monitor's unit like any other; "avoid" keeps it closed, at a
                weight of 1.
            penalty: phi, the hinge unless given; where it says an offset or a weighting of its own,
                that goes before the arguments.
        """
        penalty = penalty or HINGE
        weighting = weighting if penalty.weighting is None else penalty.weighting
        offset = offset if penalty.offset is None else penalty.offset
        weight = torch.ones(len(units))
        if weighting == "cost":
            cost = units.cost.to(torch.float64)
            weight = (cost / cost.sum().clamp(min=1)).to(torch.float32)
        reach = units.high - units.low
        reach = (
            torch.where(reach.isfinite(), reach, torch.ones_like(reach))
            if space == "gate"
            else torch.ones_like(reach)
        )
        target = (offset * reach).to(torch.float32)
        target = torch.where(
            units.strict.to(target.device), target.clamp(min=_STRICT_OFFSET[space]), target
        )
        if alarm == "raise":
            return cls(weight.to(device), target.to(device), space, penalty=penalty)
        watched = units.alarm.cpu()
        if weighting == "cost":  # the fallback is none of the work that is wanted
            own = units.cost.to(torch.float64).masked_fill(watched, 0)
            weight = (own / own.sum().clamp(min=1)).to(torch.float32)
        sign = torch.where(watched, -1.0, 1.0)
        return cls(
            weight.masked_fill(watched, 1.0).to(device),
            target.to(device),
            space,
            sign.to(device),
            penalty,
        )

    def to(self, device: torch.device) -> MarginLoss:
        """The same losses on another device."""
        if self.weight.device == device:
            return self
        sign = None if self.sign is None else self.sign.to(device)
        return replace(
            self, weight=self.weight.to(device), offset=self.offset.to(device), sign=sign
        )

    def margins(self, output: Output) -> Tensor:
        """(M, U) margins in this loss's space, those of a monitor that is to stay silent with their
        sign turned.
        """
        found = output.margins if self.space == "gate" else output.logit_margins
        return found if self.sign is None else found * self.sign.to(found.dtype)

    def gaps(self, output: Output) -> Tensor:
        """(M, U) how far each margin is below its target, 0 where it is not."""
        return torch.relu(self.offset - self.margins(output))

    def missing(self, output: Output, factor: Tensor | None = None) -> Tensor:
        """(M,) L_C >= 0, each unit's weight times a `factor` (M, U) of no gradient where given.

        0 with a zero gradient where every unit is past its target (relu: clamp's slope at 0 differs
        between releases).
        """
        weight = self.weight if factor is None else self.weight * factor
        return (self.penalty(self.gaps(output)) * weight).sum(1)

    def finished(self, output: Output, where: Tensor) -> Tensor:
        """(M,) L_F <= 0, exactly 0 (and so neither computed back nor charged) in rows where `where`
        (M,) is false.
        """
        past = torch.relu(self.margins(output) - self.offset)
        surplus = (self.penalty(past) * self.weight).sum(1)
        return torch.where(where, -surplus, torch.zeros_like(surplus))


@dataclass(frozen=True)
class SquaredDistance:
    """sum ((x' - x) / s)^2 an image, with its gradient written out: no backward pass is spent on
    it.

    The sum of squares is what the released code minimises, and the only reading under which the
    paper's Eq. 7 is 3HW times its Eq. 5; the unsquared norm that the paper prints has no gradient
    at x' = x.

    Attributes:
        scale: (1, C, 1, 1) or scalar s: 1 measures in pixels, the data set's std in normalised
            units; infinite drops the term.
    """

    scale: Tensor

    @classmethod
    def measured_in(
        cls, name: Distance, std: tuple[float, ...], device: torch.device
    ) -> SquaredDistance:
        """In "pixels", in "normalised" units of per-channel `std`, or "none" at all."""
        if name == "normalised":
            return cls(torch.tensor(std, dtype=torch.float32, device=device)[None, :, None, None])
        return cls(torch.tensor(1.0 if name == "pixels" else torch.inf, device=device))

    def value(self, images: Tensor, clean: Tensor) -> Tensor:
        """(M,) the distance."""
        return ((images - clean) / self.scale).flatten(1).square().sum(1)

    def gradient(self, images: Tensor, clean: Tensor) -> Tensor:
        """(M, C, H, W) its gradient with respect to `images`."""
        return (images - clean) * (2 / self.scale.square())


def logit_shift(output: Output, clean_logits: Tensor) -> Tensor:
    """(M,) sum over classes of (logits - clean logits)^2: the accuracy-keeping term of the released
    GradAuto code.
    """
    return (output.logits - clean_logits).square().sum(1)


def uniform_exits(output: Output) -> Tensor:
    """(M,) sum over the exits but the last of the cross-entropy between uniform and softmax
    (DeepSloth): least where no exit is sure.

    Raises:
        ContractBroken: the target gives no exits.
    """
    if output.exits is None:
        raise ContractBroken(
            "this loss reads the logits of exits, and the target's output has none",
            hint="attack a network with exits, or choose a loss over margins",
        )
    return -output.exits[:, :-1].log_softmax(-1).mean(-1).sum(1)


def opening(output: Output, weight: Tensor) -> Tensor:
    """(M,) sum_j w_j log(1 + exp(-logit margin_j)): cross-entropy of every unit with "runs", past
    its threshold too.
    """
    return (F.softplus(-output.logit_margins) * weight).sum(1)


def missing_ponder(output: Output, units: Units) -> Tensor:
    """(M,) ILFO's loss for halting networks: how far each position's ponder cost N + R is from its
    largest, mean over a block's positions.

    N, the units run, has no gradient; R = 1 - (scores of the units before the last that ran) has,
    and it is, but for a constant, the margin of the last unit that ran. Positions that ran
    everything are left out: what gradient they have leads nowhere. So are, as far as the gradient
    goes, positions that ran nothing: there R = 1 whatever the scores.
    """
    after = units.after.to(output.decisions.device)
    ran = output.decisions
    parents = after.clamp(min=0)
    stopped = ~ran & ((after < 0) | ran[:, parents])  # the first unit of a chain that did not run
    last = torch.where(after >= 0, output.margins[:, parents], torch.zeros_like(output.margins))
    cut = torch.tensor(
        _depth_left(tuple(units.after.tolist())), device=ran.device, dtype=output.margins.dtype
    )
    share = 1 / torch.tensor(
        [max(prod(shape), 1) for shape in units.shape],
        device=ran.device,
        dtype=output.margins.dtype,
    )
    return (torch.where(stopped, cut + 1 - last, torch.zeros_like(last)) * share).sum(1)


@lru_cache(maxsize=8)
def _depth_left(after: tuple[int, ...]) -> tuple[float, ...]:
    """How many units of its chain each unit stands before, itself included."""
    left = [1.0] * len(after)
    for unit in range(len(after) - 1, -1, -1):
        if after[unit] >= 0:
            left[after[unit]] = max(left[after[unit]], left[unit] + 1)
    return tuple(left)
