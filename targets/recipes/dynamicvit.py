"""How our DynamicViTs are trained: from the plain transformer, with the share of kept tokens held
over the batch, or with as many on every image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.api import Moment, Target
from bench.errors import PlanError
from targets.dynamicvit import DynamicViT, FixedTokens
from targets.dynamicvit.network import STAGES
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.vit import PlainTransformerStage, TransformerStage


@dataclass(frozen=True, kw_only=True)
class KeepingStage(TransformerStage):
    """dynamic: predictors that keep a token above a threshold, starting from the static network.

    loss = task + w(t) mean_s (rho^s - mean kept at stage s)^2, the mean over images and tokens of
    the batch: an image may keep more than its share where another keeps less. That is the released
    loss with its option `dynamic` set; equation 15 of Rao et al., NeurIPS 2021, has each image
    alone. The authors fine-tune for 30 epochs with sampled decisions (Gumbel-softmax) and also
    match the features of tokens; here decisions are those of the threshold, their gradient is
    straight-through, and w rises to `penalty` over the first quarter.

    Attributes:
        ratio: rho in (0, 1], the share of tokens kept from one stage to the next.
        penalty: w at its height.
    """

    epochs: int = 15
    ratio: float = 0.6
    penalty: float = 4.0

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "dynamicvit"
    family: ClassVar[str] = "dynamicvit"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio <= 1:
            raise PlanError(f"ratio = {self.ratio}: a share of the tokens, above 0 and at most 1")
        if self.penalty < 0:
            raise PlanError(f"penalty = {self.penalty}: at least 0")

    def build(self, classes: int) -> Target:
        """The network to train, with fresh predictors."""
        return DynamicViT(**self.target_params(), num_classes=classes)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """The task's loss, and the ramped distance from the wanted shares."""
        output = target(images)
        task = self.task_loss(output.logits, images, labels, moment)
        values = output.margins + target.units.threshold.to(output.margins)
        opened = output.decisions.to(values.dtype) + values - values.detach()
        kept = opened.view(len(images), STAGES, -1).mean((0, 2))
        apart = (self.wanted().to(kept) - kept).square().mean()
        weight = self.penalty * min(1.0, 4 * moment.done)
        shown = {
            "accuracy": accuracy(output.logits, labels),
            "open": output.decisions.float().mean(),
        }
        return task + weight * apart, shown

    def wanted(self) -> Tensor:
        """(stages,) rho, rho^2, rho^3."""
        return self.ratio ** torch.arange(1.0, STAGES + 1)


@dataclass(frozen=True, kw_only=True)
class FixedStage(TransformerStage):
    """fixed: as many tokens on every image, the best ones, starting from the static network.

    Attributes:
        ratio: as in `FixedTokens`.
    """

    epochs: int = 15
    ratio: float = 0.7

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "fixed-tokens"
    family: ClassVar[str] = "fixed-tokens"

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"backbone": self.backbone, "ratio": self.ratio}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh predictors."""
        return FixedTokens(**self.target_params(), num_classes=classes)


class DynamicViTRecipe:
    """DynamicViT in stages: static (plain transformer), dynamic (a threshold), fixed (as many
    tokens on every image), both starting from static."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": PlainTransformerStage,
        "dynamic": KeepingStage,
        "fixed": FixedStage,
    }
