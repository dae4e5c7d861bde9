"""How our A-ViTs are trained: from the plain transformer, under a ponder cost and a prior on where
tokens halt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.api import Moment, Target
from bench.errors import PlanError
from targets.avit import AViT
from targets.avit.halting import HaltedTokens
from targets.recipes.stage import Metrics, TrainingStage, accuracy
from targets.recipes.vit import PlainTransformerStage, TransformerStage


@dataclass(frozen=True, kw_only=True)
class HaltingStage(TransformerStage):
    """avit: halting scores of tokens, under a ponder cost and a prior, starting from the static
    network.

    loss = task + ponder mean_tokens (N + R) + prior KL(target || scores), equations 8 to 12 of Yin
    et al., CVPR 2022: N blocks run plus the remainder R, and the mean score of each block over
    images and tokens, as a distribution over blocks, against a Gaussian around block `halt_at`. The
    authors fine-tune for 100 epochs with weights of 5e-4 and 1e-3; this is a short schedule, in
    which the ponder cost rises from 0 over the first quarter, and whose gates begin where a score
    can move: at sigmoid(-2), of a first channel around 0. The released prior leaves out the
    first image of a batch where it means the class token; here it is over all tokens but that one.

    Attributes:
        gate_scale, gate_center: as in `AViT`.
        ponder: weight of the ponder cost.
        prior: weight of the prior.
        halt_at: the block around which tokens are to halt, from 1; 0 is two thirds of them.
    """

    gate_scale: float = 4.0
    gate_center: float = 2.0
    epochs: int = 14
    ponder: float = 0.015
    prior: float = 0.05
    halt_at: float = 0.0

    start: ClassVar[str] = "static"
    target_name: ClassVar[str] = "avit"
    family: ClassVar[str] = "avit"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("ponder", "prior", "halt_at"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name} = {getattr(self, name)}: at least 0")

    def target_params(self) -> dict[str, Any]:
        """The parameters under which the trained network is used."""
        return {
            "backbone": self.backbone,
            "gate_scale": self.gate_scale,
            "gate_center": self.gate_center,
        }

    def build(self, classes: int) -> Target:
        """The network to train, with fresh weights."""
        return AViT(**self.target_params(), num_classes=classes)

    def loss(
        self, target: Target, images: Tensor, labels: Tensor, moment: Moment
    ) -> tuple[Tensor, Metrics]:
        """The task's loss, the ramped ponder cost, and the prior."""
        assert isinstance(target, AViT)
        run = target.walk(images)
        task = self.task_loss(run.logits, images, labels, moment)
        pondered = run.ponder().mean()
        weight = self.ponder * min(1.0, 4 * moment.done)
        loss = task + weight * pondered + self.prior * self.distance(run)
        return loss, {
            "accuracy": accuracy(run.logits, labels),
            "ponder": pondered.detach(),
            "open": run.active.float().mean(),
        }

    def distance(self, run: HaltedTokens) -> Tensor:
        """() KL(target || scores), both as distributions over the blocks that have a score.

        A patch token counts in the blocks that it ran.
        """
        first = torch.ones_like(run.active[:, :1])
        ran = torch.cat([first, run.active[:, :-1]], 1)[:, :, 1:]
        mean = torch.where(ran, run.scores[:, :, 1:], 0).mean((0, 2))
        found = (mean / mean.sum().clamp(min=1e-6)).clamp(0.01, 0.99)
        wanted = self.wanted(len(mean)).to(mean)
        return (wanted * (wanted.log() - found.log())).sum()

    def wanted(self, blocks: int) -> Tensor:
        """(blocks,) a Gaussian of deviation 1 around `halt_at`, normalized."""
        center = self.halt_at or 2 * (blocks + 1) / 3
        density = (-(torch.arange(1, blocks + 1) - center).square() / 2).exp()
        return (density / density.sum()).clamp(min=1e-6)


class AViTRecipe:
    """A-ViT in stages: static (plain transformer), avit (tokens halt, starting from it)."""

    stages: ClassVar[Mapping[str, type[TrainingStage]]] = {
        "static": PlainTransformerStage,
        "avit": HaltingStage,
    }
