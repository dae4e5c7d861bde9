"""How the plain residual networks are trained: the static twins that dynamic networks are held
against and start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor

from bench.api import Moment, Target
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class StaticStage(TrainingStage):
    """static: the plain ResNet of the same depth, cross-entropy only; what the others' accuracy is
    measured against.

    Attributes:
        depth, layout: as in `ResNet`.
    """

    depth: int = 20
    layout: Literal["cifar", "imagenet"] = "cifar"

    target_name: ClassVar[str] = "resnet"

    def target_params(self) -> dict[str, Any]:
        """The parameters of the plain ResNet."""
        return {"depth": self.depth, "layout": self.layout}

    def build(self, classes: int) -> Target:
        """The plain ResNet, with fresh weights."""
        return ResNet(**self.target_params(), num_classes=classes)

    def weights_name(self, stage: str) -> str:
        """ "resnet-20-static"."""
        return static_name(self.depth, self.layout)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy."""
        output = target(images)
        return F.cross_entropy(output.logits.float(), labels), {
            "accuracy": accuracy(output.logits, labels)
        }


def static_name(depth: int, layout: str) -> str:
    """The name of a plain ResNet's weights, without the data set: "resnet-20-static",
    "resnet-18-imagenet-static"."""
    return f"resnet-{depth}{_suffix(layout)}-static"


def family_name(family: str, depth: int, layout: str, stage: str) -> str:
    """The name of a dynamic ResNet's weights, or that of its static twin: "skipnet-20-budget",
    "manidp-18-imagenet-dynamic"."""
    return (
        static_name(depth, layout)
        if stage == "static"
        else f"{family}-{depth}{_suffix(layout)}-{stage}"
    )


def _suffix(layout: str) -> str:
    return "" if layout == "cifar" else f"-{layout}"
