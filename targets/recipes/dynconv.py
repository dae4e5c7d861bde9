"""How our DynConv networks are trained: masks under a budget of MACs, from the static network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Output, Target
from bench.errors import PlanError
from targets.dynconv import DynConv
from targets.pieces.gumbel import gumbel_difference
from targets.recipes.kept import KeptStage
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.static import StaticStage, family_name


@dataclass(frozen=True, kw_only=True)
class MaskedStage(KeptStage):
    """dynconv: masks under a budget, with Gumbel noise at first, starting from the static network.

    loss = CE + penalty ((s - budget)^2 + mean_b (relu(s_b - 1 + p (1 - budget))^2 + relu(p budget -
    s_b)^2)), where s is the share of the MACs of all blocks that ran, over the batch, s_b that of
    block b, and p = cos^2 falls from 1 to 0 over the first third (Verelst and Tuytelaars, CVPR
    2020, section 3.2): at first every block has to meet the budget. Mask units and what always runs
    are not in the shares. The noise ends at the share `noisy` of the steps.

    The gradient of the shares is straight-through, and at each position that of `marginal_macs`:
    with cost_grad = "released" the first convolution is counted but has none, as in the authors'
    code. They train 350 epochs of SGD from scratch, with a penalty of 10.

    Attributes:
        cost_grad: as in `DynConv`.
        budget: the share of the blocks' MACs to spend.
        penalty: weight of the budget.
        noisy: the share of the steps with Gumbel noise.
    """

    cost_grad: Literal["mended", "released"] = "mended"
    budget: float = 0.6
    penalty: float = 10.0
    noisy: float = 0.8
    epochs: int = 10
    lr: float = 2e-3

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "dynconv"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.budget <= 1:
            raise PlanError(f"budget = {self.budget}: a share of the MACs, from 0 to 1")
        if not 0 <= self.noisy <= 1:
            raise PlanError(f"noisy = {self.noisy}: a share of the steps, from 0 to 1")

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used; with either `cost_grad`."""
        return {"depth": self.depth, "layout": self.layout}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh mask units."""
        return DynConv(**self.target_params(), cost_grad=self.cost_grad, num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "dynconv-20-dynconv"."""
        own = stage if self.cost_grad == "mended" or stage == "static" else f"released-{stage}"
        return family_name("dynconv", self.depth, self.layout, own)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy and the budget."""
        assert isinstance(target, DynConv)

        def noise(logit: Tensor) -> Tensor:
            uniform = torch.rand((*logit.shape, 2), generator=moment.generator)
            return gumbel_difference(uniform).to(logit.device)

        noisy = moment.done < self.noisy
        output = target.walk(images, noise=noise if noisy else None, straight_through=True)
        shares = self.shares(target, output)
        loss = F.cross_entropy(output.logits.float(), labels)
        loss = loss + self.penalty * self.budget_loss(target, shares, moment.done)
        return loss, {
            "accuracy": accuracy(output.logits, labels),
            "spent": self.whole(target, shares).detach(),
            "open": output.decisions.float().mean(),
        }

    def shares(self, target: DynConv, output: Output) -> Tensor:
        """(B,) the share of each block's MACs that ran, over the batch, with its gradient."""
        soft = output.logit_margins.sigmoid()
        move = (soft - soft.detach()) * target.marginal_macs(output.decisions).to(soft.dtype)
        found = []
        for mask in target.masks:
            count = target.block_count(mask, mask.maps(output.decisions)).to(soft.dtype)
            found.append((count + move[:, mask.rows].sum(1)).mean())
        return torch.stack(found) / self._dense(target, soft)

    def whole(self, target: DynConv, shares: Tensor) -> Tensor:
        """The share of all blocks together."""
        dense = self._dense(target, shares)
        return (shares * dense).sum() / dense.sum()

    def budget_loss(self, target: DynConv, shares: Tensor, done: float) -> Tensor:
        """What the budget asks for, without its weight.

        Args:
            target: the network.
            shares: (B,) of each block.
            done: the share of the training that lies behind.
        """
        near = math.cos(math.pi / 2 * min(1.0, 3 * done)) ** 2
        above = torch.relu(shares - 1 + near * (1 - self.budget)).square()
        below = torch.relu(near * self.budget - shares).square()
        return (self.whole(target, shares) - self.budget).square() + (above + below).mean()

    @staticmethod
    def _dense(target: DynConv, like: Tensor) -> Tensor:
        """(B,) MACs of each block at all positions."""
        found = [
            mask.size**2 * (mask.active + mask.around * mask.spread**2) for mask in target.masks
        ]
        return torch.tensor(found, dtype=like.dtype).to(like.device)


class DynConvRecipe:
    """DynConv in stages: static (plain ResNet), dynconv (masks under a budget, starting from
    it)."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": StaticStage,
        "dynconv": MaskedStage,
    }
