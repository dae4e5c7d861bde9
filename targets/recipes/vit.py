"""How the plain vision transformers are trained: the static twins that those which drop tokens are
held against and start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from bench.api import Moment, Target
from targets.recipes.distillation import DistilledStage
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.vit import ViT


@dataclass(frozen=True, kw_only=True)
class TransformerStage(DistilledStage):
    """What all stages of vision transformers share.

    Attributes:
        backbone: as in `ViT`.
    """

    backbone: str = "vit-32x6"
    batch: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05

    target_name: ClassVar[str] = "vit"
    family: ClassVar[str] = ""

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {"backbone": self.backbone}

    def weights_name(self, stage: str) -> str:
        """ "vit-32x6-static", "avit-32x6-avit"; "avit-deit-tiny-patch16-224-avit"."""
        size = self.backbone.removeprefix("vit-").replace("_", "-")
        return f"vit-{size}-static" if stage == "static" else f"{self.family}-{size}-{stage}"

    def groups(self, target: Target) -> list[dict[str, Any]]:
        """Biases, normalizations and positions without weight decay."""
        named = dict(target.named_parameters())
        plain = [name for name, value in named.items() if value.ndim < 2 or "_embed" in name[-10:]]
        others = [value for name, value in named.items() if name not in plain]
        return [
            {"params": others},
            {"params": [named[name] for name in plain], "weight_decay": 0.0},
        ]

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """Cross-entropy, and what the teacher says."""
        output = target(images)
        loss = self.task_loss(output.logits, images, labels, moment)
        return loss, {"accuracy": accuracy(output.logits, labels)}


@dataclass(frozen=True, kw_only=True)
class PlainTransformerStage(TransformerStage):
    """static: the transformer that runs every token in every block; what the others' accuracy is
    measured against."""

    epochs: int = 60

    def build(self, classes: int) -> Target:
        """The plain transformer, with fresh weights."""
        return ViT(**self.target_params(), num_classes=classes)


class ViTRecipe:
    """Plain vision transformers, in one stage: static."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {"static": PlainTransformerStage}
