"""How our ConvNet-AIGs are trained: gates under a rate for each block, with Gumbel noise first or
throughout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Target
from bench.errors import PlanError
from targets.aig import AIG
from targets.pieces.gumbel import gumbel_difference
from targets.recipes.kept import KeptStage
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.static import StaticStage, family_name


@dataclass(frozen=True, kw_only=True)
class GatedStage(KeptStage):
    """aig: gates that decide by the larger logit, each held to a rate over the batch, starting from
    the static network.

    loss = CE + penalty mean_l (rate_l - opened_l)^2, where opened_l is the share of the batch whose
    block l runs, with straight-through gradients (Veit and Belongie, ECCV 2018, equation 6). Blocks
    whose rate is 1 stay out of the mean. The first share `noisy` of the steps adds Gumbel noise to
    the logits, as the authors do throughout; without it the gates then learn the decisions that
    they are used with, for noise hides from them how often the larger logit wins.

    The authors train from scratch, 350 epochs of SGD with a penalty of 2 and a rate of 0.6 on
    CIFAR, and of 1 on ImageNet with a rate of its own for each block.

    Attributes:
        target_open: the rate of every block.
        rates: of each block, instead of `target_open`; empty for none.
        penalty: weight of the rates.
        noisy: the share of the steps with Gumbel noise.
    """

    target_open: float = 0.6
    rates: tuple[float, ...] = ()
    penalty: float = 4.0
    noisy: float = 0.3
    epochs: int = 10
    lr: float = 2e-3

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "aig"
    gating: ClassVar[Literal["argmax", "sample"]] = "argmax"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.noisy <= 1:
            raise PlanError(f"noisy = {self.noisy}: a share of the steps, from 0 to 1")

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"depth": self.depth, "gating": self.gating, "layout": self.layout}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh gates.

        Raises:
            PlanError: there is not a rate for each block.
        """
        target = AIG(**self.target_params(), num_classes=classes)
        if self.rates and len(self.rates) != len(target.units):
            raise PlanError(
                f"rates: {len(self.rates)} of them, but there are {len(target.units)} blocks"
            )
        return target

    def weights_name(self, stage: str) -> str:
        """ "aig-20-aig", "aig-20-sampled"."""
        return family_name("aig", self.depth, self.layout, stage)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy and the rates."""
        assert isinstance(target, AIG)
        noise = None
        if moment.done < self.noisy:
            uniform = torch.rand((len(images), len(target.units), 2), generator=moment.generator)
            noise = gumbel_difference(uniform).to(images.device)
        output = target.walk(
            images, lambda unit, value: value.detach() > 0.5, noise=noise, straight_through=True
        )
        loss = F.cross_entropy(output.logits.float(), labels) + self.penalty * self.rate_loss(
            output.decisions, output.margins
        )
        return loss, {
            "accuracy": accuracy(output.logits, labels),
            "open": output.decisions.float().mean(),
        }

    def rate_loss(self, taken: Tensor, values: Tensor) -> Tensor:
        """mean_l (rate_l - opened_l)^2.

        Args:
            taken: (N, L) bool, the blocks that ran.
            values: (N, L) gate values, or margins; they bring the gradient.
        """
        hard = taken.to(values.dtype)
        opened = (hard + (values - values.detach())).mean(0)
        rates = torch.tensor(self.rates or (self.target_open,) * len(opened)).to(opened)
        return (rates - opened)[rates < 1].square().mean()


@dataclass(frozen=True, kw_only=True)
class SampledStage(GatedStage):
    """sampled: as `aig` with Gumbel noise throughout, for gates that sample when they are used, as
    released."""

    noisy: float = 1.0

    gating: ClassVar[Literal["argmax", "sample"]] = "sample"


class AIGRecipe:
    """ConvNet-AIG in stages: static (plain ResNet), aig (the larger logit decides), sampled (gates
    draw, as released), both starting from static."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": StaticStage,
        "aig": GatedStage,
        "sampled": SampledStage,
    }
