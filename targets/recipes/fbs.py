"""How our FBS control is trained: from the static network, as many channels on every image from the
first step on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Target
from targets.fbs import FBS
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.static import StaticStage, family_name


@dataclass(frozen=True, kw_only=True)
class WinnersStage(TrainingStage):
    """fbs: k winners take all in every convolution, cross-entropy only, starting from the static
    network.

    Attributes:
        depth, layout, density: as in `FBS`.
    """

    depth: int = 20
    layout: Literal["cifar", "imagenet"] = "cifar"
    density: float = 0.6
    epochs: int = 8
    lr: float = 2e-3

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "fbs"

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"depth": self.depth, "layout": self.layout, "density": self.density}

    def build(self, classes: int) -> Target:
        """The network to train, with fresh branches."""
        return FBS(**self.target_params(), num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "fbs-20-fbs"."""
        return family_name("fbs", self.depth, self.layout, stage)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy; winners pass a gradient through their saliency, closed channels none."""
        assert isinstance(target, FBS)
        logits, seen = target.walk(images, target.keep)
        kept = torch.cat([one.kept for one in seen], 1).float().mean()
        return F.cross_entropy(logits.float(), labels), {
            "accuracy": accuracy(logits, labels),
            "open": kept,
        }


class FBSRecipe:
    """FBS in stages: static (plain ResNet), fbs (k winners take all, starting from it)."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": StaticStage,
        "fbs": WinnersStage,
    }
